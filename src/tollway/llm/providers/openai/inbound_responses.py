"""OpenAI's Responses as clients send them to us: `POST /v1/responses`, stateless, read into a neutral request.

Nothing is stored, so a conversation is sent whole: `previous_response_id`, `conversation`, `background` and references
to stored items are refused, `store` is ignored.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tollway.domain.errors import Problem
from tollway.domain.llm import Completion, LlmRequest, Sent
from tollway.llm.providers.inbound import Fault, Limits, Stamp, bad, bounded, check_schema, decoded, read_fields
from tollway.llm.providers.openai import inbound_parts
from tollway.llm.providers.openai.render_responses import ResponsesWriter, responses_answer

FORM = "openai.responses"
Text = Annotated[str, Meta(min_length=1)]
_STATELESS = "this wire is stateless, it keeps no answers: send the whole conversation in input"
_PARTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "text"}


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    refusal: str = ""
    image_url: str | None = None
    detail: str | None = None


class _Output(msgspec.Struct):
    type: str = ""
    text: str = ""


class _Item(msgspec.Struct):
    type: str = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[_Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[_Output] | None = None


class _Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = "answer"
    schema_: dict[str, Any] | None = msgspec.field(default=None, name="schema")


class _TextConfig(msgspec.Struct):
    format: _Format | None = None


class _Body(msgspec.Struct):
    model: Text
    input: str | Annotated[list[_Item], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: _TextConfig | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    background: bool | None = None


_body = msgspec.json.Decoder(_Body).decode


class InboundResponses:
    """Implements `Inbound`."""

    form = FORM

    def read(self, body: bytes, limits: Limits) -> LlmRequest:
        """The request. Raises Problem."""
        given = decoded(_body, body)
        for param in ("previous_response_id", "conversation", "background"):
            if getattr(given, param):
                raise Problem("invalid_request", f"{param}: {_STATELESS}", fields={"param": param})
        tools = None if not given.tools else [_tool(index, tool) for index, tool in enumerate(given.tools)]
        choice = _choice(given.tool_choice)
        inbound_parts.check_choice(choice, tools)
        schema, schema_name = _schema(given.text.format if given.text is not None else None)
        return LlmRequest(
            given.model,
            _messages(given),
            bounded("max_output_tokens", given.max_output_tokens, given.model, limits),
            given.temperature,
            schema,
            schema_name,
            tools,
            bool(given.stream),
            tool_choice=choice,
            top_p=given.top_p,
            sent=Sent(FORM, read_fields(body)),
        )

    def answer(self, completion: Completion, request: LlmRequest, stamp: Stamp) -> bytes:
        """A `response`."""
        return responses_answer(completion, request, stamp)

    def stream(self, request: LlmRequest, stamp: Stamp) -> ResponsesWriter:
        """The events of a streamed answer."""
        return ResponsesWriter(request, stamp)

    def error(self, fault: Fault) -> bytes:
        """An error object."""
        return inbound_parts.error(fault)


def _messages(given: _Body) -> list[dict[str, Any]]:
    """The conversation in the chat form; neighbouring calls of tools become one message."""
    messages: list[dict[str, Any]] = []
    if given.instructions:
        messages.append({"role": "system", "content": given.instructions})
    if isinstance(given.input, str):
        return [*messages, {"role": "user", "content": given.input}]
    for index, item in enumerate(given.input):
        place = f"input[{index}]"
        if item.type == "message":
            messages.append(_message(item, place))
        elif item.type == "function_call":
            function = {
                "name": _needed(item.name, f"{place}.name"),
                "arguments": _needed(item.arguments, f"{place}.arguments"),
            }
            call = {"id": _needed(item.call_id, f"{place}.call_id"), "type": "function", "function": function}
            last = messages[-1] if messages else {}
            if last.get("role") == "assistant":
                last.setdefault("tool_calls", []).append(call)
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif item.type == "function_call_output":
            output = _needed(item.output, f"{place}.output")
            text = output if isinstance(output, str) else "".join(part.text for part in output)
            messages.append(
                {"role": "tool", "tool_call_id": _needed(item.call_id, f"{place}.call_id"), "content": text}
            )
        elif item.type == "item_reference":
            raise bad(f"{place}.type", _STATELESS)
    if not messages:
        raise bad("input", "holds no message")
    return messages


def _message(item: _Item, place: str) -> dict[str, Any]:
    role = _needed(item.role, f"{place}.role")
    content = _needed(item.content, f"{place}.content")
    if isinstance(content, str):
        return {"role": role, "content": content}
    parts: list[dict[str, Any]] = []
    for number, part in enumerate(content):
        if part.type in _PARTS:
            parts.append({"type": "text", "text": part.text or part.refusal})
        elif part.type == "input_image":
            url = _needed(part.image_url, f"{place}.content[{number}].image_url")
            image = {"url": url, **({"detail": part.detail} if part.detail else {})}
            parts.append({"type": "image_url", "image_url": image})
        else:
            parts.append({"type": part.type})
    if role == "assistant":
        return {"role": role, "content": "".join(part.get("text", "") for part in parts)}
    return {"role": role, "content": parts}


def _needed(value: Any, param: str) -> Any:
    if value is None:
        raise bad(param, "is required")
    return value


def _tool(index: int, tool: dict[str, Any]) -> dict[str, Any]:
    """A function in the chat form; a tool of the vendor's own stays as it is, and only that vendor can take it."""
    if tool.get("type", "function") != "function":
        return tool
    inbound_parts.check_function(tool, f"tools[{index}]")
    known = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {key: tool[key] for key in known if tool.get(key) is not None}}


def _choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _schema(form: _Format | None) -> tuple[dict[str, Any] | None, str]:
    if form is None or form.type == "text":
        return None, "answer"
    if form.type == "json_object":
        return {"type": "object"}, "answer"
    if form.schema_ is None:
        raise bad("text.format.schema", "is required of the type json_schema")
    return check_schema(form.schema_, "text.format.schema"), form.name
