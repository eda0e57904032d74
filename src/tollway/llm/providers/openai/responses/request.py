"""A neutral request as the body of POST /responses: messages become items, tools lose their envelope."""

from collections.abc import Iterator
from typing import Any

from tollway.domain.llm import LlmRequest
from tollway.llm.providers.openai.request import refuse_several, schema_form
from tollway.llm.providers.wire import check_extra, passes, plain, refused, resent, to_json

FORM = "openai.responses"
_RESERVED = frozenset(("model", "input", "stream", "max_output_tokens", "background"))
_DECIDED = frozenset(("stream", "background"))


def encode(request: LlmRequest, model: str) -> bytes:
    """The body. Raises LlmError for what this form cannot carry: stop sequences, unknown roles and parts."""
    ours: dict[str, Any] = {"model": model, "max_output_tokens": request.max_tokens}
    if request.stream:
        ours["stream"] = True
    if passes(request, FORM):
        refuse_several(request)
        if request.sent is not None and plain(request.sent.fields.get("background")):
            raise refused("background must be false: its answer would come past the books")
        return resent(request, ours, _DECIDED)
    if request.stop:
        raise refused("the Responses API knows no stop sequences")
    try:
        body = {**_body(request), **ours}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise refused(f"the messages or tools cannot be put in the form of the Responses API: {error!r}") from None
    check_extra(request.extra, _RESERVED)
    return to_json({"store": False, **request.extra, **body})


def _body(request: LlmRequest) -> dict[str, Any]:
    body: dict[str, Any] = {"input": [item for message in request.messages for item in _items(message)]}
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        choice = request.tool_choice
        if choice is not None:
            body["tool_choice"] = _named(choice) if isinstance(choice, dict) else choice
    if request.schema is not None:
        body["text"] = {"format": {"type": "json_schema", **schema_form(request)}}
    return body


def _items(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    role, content = message["role"], message.get("content")
    if role == "tool":
        output = content if isinstance(content, str) else [_part(part, role) for part in content or ()]
        yield {"type": "function_call_output", "call_id": message["tool_call_id"], "output": output}
        return
    if role not in ("system", "developer", "user", "assistant"):
        raise ValueError(f"no such role: {role}")
    if content:
        parts = content if isinstance(content, str) else [_part(part, role) for part in content]
        yield {"role": role, "content": parts}
    for call in message.get("tool_calls") or ():
        function = call["function"]
        arguments = function.get("arguments") or "{}"
        yield {"type": "function_call", "call_id": call["id"], "name": function["name"], "arguments": arguments}


def _part(part: dict[str, Any], role: str) -> dict[str, Any]:
    """Texts, images and files change their form; every other part is passed as it is."""
    kind = part["type"]
    if kind == "text":
        return {"type": "output_text" if role == "assistant" else "input_text", "text": part["text"]}
    if kind == "image_url":
        image = part["image_url"]
        return {"type": "input_image", "image_url": image["url"], "detail": image.get("detail", "auto")}
    if kind == "file":
        return {"type": "input_file", **part["file"]}
    return part


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """Without its envelope; unlike there, a function here is strict unless it says otherwise."""
    function = tool.get("function")
    return tool if function is None else {"type": "function", "strict": False, **function}


def _named(choice: dict[str, Any]) -> dict[str, Any]:
    function = choice.get("function")
    return choice if function is None else {"type": "function", "name": function["name"]}
