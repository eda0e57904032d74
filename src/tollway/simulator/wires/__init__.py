"""The wires the simulated provider speaks, by path: a further one is a file that implements `Wire` and a line here."""

from tollway.simulator.neutral import Wire
from tollway.simulator.wires.anthropic_messages import AnthropicMessages
from tollway.simulator.wires.openai_chat import OpenAIChat

DEFAULT_WIRE: Wire = OpenAIChat()

WIRES: dict[bytes, Wire] = {
    b"/v1/chat/completions": DEFAULT_WIRE,
    b"/v1/messages": AnthropicMessages(),
}
