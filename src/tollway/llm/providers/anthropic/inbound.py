"""Messages as clients send them to us: `POST /v1/messages`, read into a neutral request in the chat form."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tollway.domain.llm import Completion, LlmRequest, Sent
from tollway.llm.providers.anthropic.render import FAULT_TYPES, MessagesWriter, messages_answer
from tollway.llm.providers.inbound import Fault, Limits, Stamp, bad, bounded, check_schema, decoded, read_fields

FORM = "anthropic.messages"
Text = Annotated[str, Meta(min_length=1)]
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class _Source(msgspec.Struct):
    type: str
    media_type: str = ""
    data: str = ""
    url: str = ""


class _Block(msgspec.Struct):
    type: str
    text: str | None = None
    source: _Source | str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: Any = None


class _Message(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[_Block]


class _Format(msgspec.Struct):
    type: str
    schema_: dict[str, Any] | None = msgspec.field(default=None, name="schema")


class _OutputConfig(msgspec.Struct):
    format: _Format | None = None


class _Choice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None


class _Body(msgspec.Struct):
    model: Text
    messages: Annotated[list[_Message], Meta(min_length=1)]
    max_tokens: int | None = None
    system: str | list[_Block] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: _Choice | None = None
    output_config: _OutputConfig | None = None


_body = msgspec.json.Decoder(_Body).decode
_blocks = msgspec.json.Decoder(list[_Block]).decode


class InboundMessages:
    """Implements `Inbound`."""

    form = FORM

    def read(self, body: bytes, limits: Limits) -> LlmRequest:
        """The request. Raises Problem."""
        given = decoded(_body, body)
        tools = None if not given.tools else [_tool(index, tool) for index, tool in enumerate(given.tools)]
        return LlmRequest(
            given.model,
            _messages(given),
            bounded("max_tokens", given.max_tokens, given.model, limits),
            given.temperature,
            _schema(given.output_config),
            "answer",
            tools,
            bool(given.stream),
            tool_choice=_choice(given.tool_choice, tools),
            top_p=given.top_p,
            stop=tuple(given.stop_sequences or ()),
            sent=Sent(FORM, read_fields(body)),
        )

    def answer(self, completion: Completion, request: LlmRequest, stamp: Stamp) -> bytes:
        """A `message`."""
        return messages_answer(completion, request, stamp)

    def stream(self, request: LlmRequest, stamp: Stamp) -> MessagesWriter:
        """The events of a streamed answer."""
        return MessagesWriter(request, stamp)

    def error(self, fault: Fault) -> bytes:
        """An error, which names its field in its text, for this wire has no place of its own for it."""
        kind = FAULT_TYPES.get(fault.status) or ("api_error" if fault.status >= 500 else "invalid_request_error")
        return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": fault.message}})


def _messages(given: _Body) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if given.system:
        system = given.system
        text = system if isinstance(system, str) else "\n".join(block.text or "" for block in system)
        messages.append({"role": "system", "content": text})
    for index, message in enumerate(given.messages):
        place = f"messages[{index}].content"
        if isinstance(message.content, str):
            messages.append({"role": message.role, "content": message.content})
        elif message.role == "assistant":
            messages.append(_said(message.content, place))
        else:
            messages += _heard(message.role, message.content, place)
    return messages


def _said(blocks: list[_Block], place: str) -> dict[str, Any]:
    """What the assistant said: text, and calls of tools. Its thinking only its own vendor can read."""
    said: dict[str, Any] = {"role": "assistant", "content": "".join(b.text or "" for b in blocks if b.type == "text")}
    calls = []
    for number, block in enumerate(blocks):
        if block.type == "tool_use":
            at = f"{place}[{number}]"
            function = {
                "name": _needed(block.name, f"{at}.name"),
                "arguments": msgspec.json.encode(block.input or {}).decode(),
            }
            calls.append({"id": _needed(block.id, f"{at}.id"), "type": "function", "function": function})
    if calls:
        said["tool_calls"] = calls
    return said


def _heard(role: str, blocks: list[_Block], place: str) -> list[dict[str, Any]]:
    """What the assistant was told: results of tools as messages of their own, then the rest."""
    results, parts = [], []
    for number, block in enumerate(blocks):
        at = f"{place}[{number}]"
        if block.type == "tool_result":
            name = _needed(block.tool_use_id, f"{at}.tool_use_id")
            results.append({"role": "tool", "tool_call_id": name, "content": _result(block.content, f"{at}.content")})
        else:
            parts.append(_part(block, at))
    return [*results, {"role": role, "content": parts}] if parts or not results else results


def _result(content: Any, place: str) -> Any:
    if content is None or isinstance(content, str):
        return content or ""
    blocks = decoded(_blocks, msgspec.json.encode(content), place)
    if all(block.type == "text" for block in blocks):
        return "\n".join(block.text or "" for block in blocks)
    return [_part(block, f"{place}[{number}]") for number, block in enumerate(blocks)]


def _part(block: _Block, place: str) -> dict[str, Any]:
    if block.type == "text":
        return {"type": "text", "text": _needed(block.text, f"{place}.text")}
    if block.type != "image":
        return {"type": block.type}
    source = block.source
    if not isinstance(source, _Source) or source.type not in ("base64", "url"):
        raise bad(f"{place}.source", "must be an image as base64 or by url")
    url = source.url if source.type == "url" else f"data:{source.media_type};base64,{source.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _needed(value: str | None, param: str) -> str:
    if value is None:
        raise bad(param, "is required")
    return value


def _tool(index: int, tool: dict[str, Any]) -> dict[str, Any]:
    """A tool in the chat form; one of the vendor's own stays as it is, and only that vendor can take it."""
    if tool.get("type", "custom") != "custom":
        return tool
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise bad(f"tools[{index}].name", "must be a text of at least one character")
    function = {"name": name, "parameters": check_schema(tool.get("input_schema"), f"tools[{index}].input_schema")}
    if tool.get("description"):
        function["description"] = tool["description"]
    return {"type": "function", "function": function}


def _choice(choice: _Choice | None, tools: list[dict[str, Any]] | None) -> str | dict[str, Any] | None:
    if choice is None:
        return None
    if not tools and choice.type != "none":
        raise bad("tool_choice", "needs tools to choose from")
    if choice.type != "tool":
        return _CHOICES[choice.type]
    names = [tool.get("name") or (tool.get("function") or {}).get("name") for tool in tools or ()]
    if choice.name not in names:
        raise bad("tool_choice.name", f"names no tool in tools: {choice.name!r}")
    return {"type": "function", "function": {"name": choice.name}}


def _schema(config: _OutputConfig | None) -> dict[str, Any] | None:
    if config is None or config.format is None:
        return None
    return check_schema(config.format.schema_, "output_config.format.schema")
