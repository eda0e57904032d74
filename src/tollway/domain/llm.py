"""What an agent asks of a model and what comes back, in no vendor's form."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class LlmRequest:
    """One request for a completion.

    `messages` are in the OpenAI chat form (`role`, `content`, `tool_calls`, `tool_call_id`), the field's common tongue;
    `schema` is a JSON Schema the answer must fit; `tools` are OpenAI tool definitions; `extra` passes through
    untouched.
    """

    tier: str
    messages: list[dict[str, Any]]
    max_tokens: int
    temperature: float | None = None
    schema: dict[str, Any] | None = None
    schema_name: str = "answer"
    tools: list[dict[str, Any]] | None = None
    stream: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the vendor counts them; `estimated` where it did not say.

    `input_tokens` includes those read from the vendor's prompt cache (`cached_tokens`) and those written to it
    (`cache_write_tokens`, of which `cache_write_long_tokens` to the dearer, longer-lived one); `output_tokens` includes
    `reasoning_tokens`.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    cache_write_tokens: int = 0
    cache_write_long_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call the model asks for; `arguments` is the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Completion:
    """A provider's whole answer.

    `text` is the JSON where a schema was asked for; `stop_reason` is `stop`, `length`, `tool_calls`, `content_filter`
    or `refusal`; `model` is what the vendor says it used.
    """

    text: str
    tool_calls: tuple[ToolCall, ...]
    usage: Usage
    stop_reason: str
    model: str
