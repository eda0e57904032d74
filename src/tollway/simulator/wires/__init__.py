"""The wires the simulated provider speaks, by path: a further one is a file that implements `Wire` and a line here."""

import re
from urllib.parse import unquote_to_bytes

from tollway.simulator.neutral import Wire
from tollway.simulator.wires.anthropic_messages import AnthropicMessages
from tollway.simulator.wires.gemini import Gemini
from tollway.simulator.wires.gemini_embeddings import GeminiEmbeddings
from tollway.simulator.wires.openai_chat import OpenAIChat
from tollway.simulator.wires.openai_embeddings import OpenAIEmbeddings
from tollway.simulator.wires.openai_responses import OpenAIResponses

DEFAULT_WIRE: Wire = OpenAIChat()

_WIRES: dict[bytes, Wire] = {
    b"/v1/chat/completions": DEFAULT_WIRE,
    b"/v1/responses": OpenAIResponses(),
    b"/v1/embeddings": OpenAIEmbeddings(),
    b"/v1/messages": AnthropicMessages(),
}
_GEMINI = re.compile(rb"/v1(?:beta)?/models/([^/:]+):(generateContent|streamGenerateContent|batchEmbedContents)")


def wire_at(path: bytes) -> Wire | None:
    """The wire of a path, if there is one."""
    wire = _WIRES.get(path)
    if wire is not None:
        return wire
    match = _GEMINI.fullmatch(path)
    if match is None:
        return None
    model = unquote_to_bytes(match[1]).decode("utf-8", "replace")
    if match[2] == b"batchEmbedContents":
        return GeminiEmbeddings(model)
    return Gemini(model, stream=match[2] == b"streamGenerateContent")
