"""Chat completions as clients send them to us: `POST /v1/chat/completions`, read into a neutral request.

The body's fields are kept as they came (`Sent`), so that a server of this very form is sent the ones we do not know.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tollway.domain.llm import Completion, LlmRequest, Sent
from tollway.llm.providers.inbound import Fault, Limits, Stamp, bad, bounded, check_schema, decoded, read_fields
from tollway.llm.providers.openai import inbound_parts
from tollway.llm.providers.openai.render_chat import ChatWriter, chat_answer

FORM = "openai.chat"
Text = Annotated[str, Meta(min_length=1)]


class _Image(msgspec.Struct):
    url: Text


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    image_url: _Image | None = None


class _Function(msgspec.Struct):
    name: Text
    arguments: str = ""


class _Call(msgspec.Struct):
    id: str = ""
    function: _Function | None = None


class _Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


class _Schema(msgspec.Struct):
    name: str = "answer"
    schema_: dict[str, Any] | None = msgspec.field(default=None, name="schema")


class _Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(msgspec.Struct):
    model: Text
    messages: Annotated[list[_Message], Meta(min_length=1)]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: _Format | None = None


_body = msgspec.json.Decoder(_Body).decode
_messages = msgspec.json.Decoder(list[dict[str, Any]]).decode


class InboundChat:
    """Implements `Inbound`."""

    form = FORM

    def read(self, body: bytes, limits: Limits) -> LlmRequest:
        """The request. Raises Problem."""
        given = decoded(_body, body)
        fields = read_fields(body)
        _check_messages(given.messages)
        if given.n not in (None, 1):
            raise bad("n", f"is {given.n}, but one request is one answer here; ask again for another")
        if given.tools:
            inbound_parts.check_tools(given.tools)
        inbound_parts.check_choice(given.tool_choice, given.tools)
        name = "max_tokens" if given.max_completion_tokens is None else "max_completion_tokens"
        schema, schema_name = _schema(given.response_format)
        return LlmRequest(
            given.model,
            _messages(fields["messages"]),
            bounded(name, getattr(given, name), given.model, limits),
            given.temperature,
            schema,
            schema_name,
            given.tools or None,
            bool(given.stream),
            tool_choice=given.tool_choice,
            top_p=given.top_p,
            stop=(given.stop,) if isinstance(given.stop, str) else tuple(given.stop or ()),
            sent=Sent(FORM, fields),
        )

    def answer(self, completion: Completion, request: LlmRequest, stamp: Stamp) -> bytes:
        """A `chat.completion`."""
        return chat_answer(completion, request, stamp)

    def stream(self, request: LlmRequest, stamp: Stamp) -> ChatWriter:
        """The chunks of a streamed answer."""
        return ChatWriter(request, stamp, usage=wants_usage(request))

    def error(self, fault: Fault) -> bytes:
        """An error object."""
        return inbound_parts.error(fault)


def wants_usage(request: LlmRequest) -> bool:
    """Whether the client asked for the chunk that tells the usage of a stream."""
    options = request.sent.fields.get("stream_options") if request.sent is not None else None
    if options is None:
        return False
    given = msgspec.json.decode(options, type=_StreamOptions | None)
    return given is not None and bool(given.include_usage)


def _check_messages(messages: list[_Message]) -> None:
    for index, message in enumerate(messages):
        place, content = f"messages[{index}]", message.content
        if content is None and message.role not in ("assistant", "function"):
            raise bad(f"{place}.content", f"is required of a message of the role {message.role}")
        if message.role == "tool" and not message.tool_call_id:
            raise bad(f"{place}.tool_call_id", "is required of a message of the role tool")
        if isinstance(content, list):
            for number, part in enumerate(content):
                if part.type == "text" and part.text is None:
                    raise bad(f"{place}.content[{number}].text", "is required of a part of the type text")
                if part.type == "image_url" and part.image_url is None:
                    raise bad(f"{place}.content[{number}].image_url", "is required of a part of the type image_url")


def _schema(form: _Format | None) -> tuple[dict[str, Any] | None, str]:
    """The schema the answer must fit, and its name."""
    if form is None or form.type == "text":
        return None, "answer"
    if form.type == "json_object":
        return {"type": "object"}, "answer"
    given = form.json_schema
    if given is None or given.schema_ is None:
        missing = "response_format.json_schema" + ("" if given is None else ".schema")
        raise bad(missing, "is required of the type json_schema")
    return check_schema(given.schema_, "response_format.json_schema.schema"), given.name
