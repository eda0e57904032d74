"""What an agent asks of a model and what comes back, in no vendor's form."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: capacity is shared fairly, caches are kept apart and lengths are learned by it.

    `agent` is the agent's name, over the wire the API key's id; `step` the name of the step, over the wire "". `weight`
    is the tenant's; `key_id` the API key that submitted the run, or asks.
    """

    tenant: str
    lane: str
    agent: str
    version: str = ""
    step: str = ""
    task_type: str = ""
    weight: float = 1.0
    key_id: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as a client sent it over the wire: its form, and its top-level fields as raw JSON.

    `form` is `openai.chat`, `openai.responses`, `openai.embeddings` or `anthropic.messages`. A provider that speaks the
    same form is sent these fields, unknown ones included, but for what Tollway decides (model, bounds of output).
    """

    form: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LlmRequest:
    """One request for a completion, or with `inputs` for embeddings.

    `tier` is a tier or, over the wire, a model. `messages` are in the OpenAI chat form (`role`, `content`,
    `tool_calls`, `tool_call_id`), the field's common tongue; `schema` is a JSON Schema the answer must fit; `tools` and
    `tool_choice` are in the OpenAI chat form too; `extra` passes through untouched. An input that the client sent as
    tokens is "" here; there are `ready_tokens` of these in all, and only a provider of the client's form can take them.
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
    tool_choice: str | dict[str, Any] | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    ready_tokens: int = 0
    sent: Sent | None = None


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
    or `refusal`; `model` is what the vendor says it used; `vectors` are embeddings, one an input. Of a request that
    came over the wire, `body` is the answer as the vendor sent it, in its `form`.
    """

    text: str
    tool_calls: tuple[ToolCall, ...]
    usage: Usage
    stop_reason: str
    model: str
    reasoning: str = ""
    vectors: tuple[tuple[float, ...], ...] = ()
    body: bytes = b""
    form: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a streamed answer.

    `kind` is `text`, `reasoning`, `tool` (a tool call begins: `id`, `name`) or `arguments` (more of its JSON in
    `text`); `index` numbers the tool calls.
    """

    kind: str
    text: str = ""
    index: int = 0
    id: str = ""
    name: str = ""
