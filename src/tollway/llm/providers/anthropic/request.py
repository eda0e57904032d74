"""A neutral request as the body of POST /v1/messages.

System messages move to `system`, tool calls and their results become content blocks, and a schema becomes a tool the
model must call, for this wire has no response format of its own.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from tollway.domain.llm import LlmRequest
from tollway.llm.providers.wire import check_extra, passes, refused, resent, to_json
from tollway.llm.schema import prepare

FORM = "anthropic.messages"
_RESERVED = frozenset(("model", "messages", "stream", "max_tokens"))
_CHOICES = {"auto": {"type": "auto"}, "required": {"type": "any"}, "none": {"type": "none"}}
_SYSTEM = ("system", "developer")
_ANSWER_TOOL = "Give the answer with this tool."


def encode(request: LlmRequest, model: str) -> bytes:
    """The body. Raises LlmError for messages this wire cannot carry."""
    if passes(request, FORM):
        ours: dict[str, Any] = {"model": model, "max_tokens": request.max_tokens}
        return resent(request, {**ours, "stream": True} if request.stream else ours, frozenset(("stream",)))
    try:
        body = _body(request, model)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise refused(f"the messages or tools cannot be put in Anthropic's form: {error!r}") from None
    if request.extra:
        check_extra(request.extra, _RESERVED)
        body = {**request.extra, **body}
    return to_json(body)


def _body(request: LlmRequest, model: str) -> dict[str, Any]:
    system, messages = _split(request.messages)
    body: dict[str, Any] = {"model": model, "max_tokens": request.max_tokens, "messages": messages}
    if system:
        body["system"] = system[0]["text"] if len(system) == 1 and len(system[0]) == 2 else system
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.stop:
        body["stop_sequences"] = request.stop
    tools = [_tool(tool) for tool in request.tools or ()]
    if request.schema is not None:
        answer = {"name": request.schema_name, "description": _ANSWER_TOOL}
        tools.append({**answer, "input_schema": prepare(request.schema).plain})
    if tools:
        body["tools"] = tools
        choice = _choice(request)
        if choice is not None:
            body["tool_choice"] = choice
    if request.stream:
        body["stream"] = True
    return body


def _choice(request: LlmRequest) -> dict[str, Any] | None:
    """Which tool must be called; where a schema was asked for, that of the answer unless another one is named."""
    given = request.tool_choice
    if isinstance(given, dict):
        return {"type": "tool", "name": given["function"]["name"]}
    if request.schema is None:
        return _CHOICES[given] if given is not None else None
    if "thinking" in request.extra:
        return None  # the vendor lets a model that thinks choose freely only
    return {"type": "any"} if request.tools and given != "none" else {"type": "tool", "name": request.schema_name}


def _tool(given: dict[str, Any]) -> dict[str, Any]:
    """A function changes its form; the vendor's own tools are passed as they are."""
    if "function" not in given:
        return given
    function = given["function"]
    tool = {"name": function["name"], "input_schema": function.get("parameters") or {"type": "object"}}
    if function.get("description"):
        tool["description"] = function["description"]
    return tool


def _split(given: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The system's blocks, and the conversation with neighbours of one role put together."""
    system: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    for message in given:
        if message["role"] in _SYSTEM:
            system += _blocks(message.get("content"))
            continue
        made = _message(message)
        if messages and messages[-1]["role"] == made["role"]:
            before = messages[-1]
            before["content"] = _blocks(before["content"]) + _blocks(made["content"])
        else:
            messages.append(made)
    return system, messages


def _message(message: dict[str, Any]) -> dict[str, Any]:
    role, content = message["role"], message.get("content")
    if role == "tool":
        block: dict[str, Any] = {"type": "tool_result", "tool_use_id": message["tool_call_id"]}
        block["content"] = content if isinstance(content, str) else _blocks(content)
        return {"role": "user", "content": [block]}
    if role not in ("user", "assistant"):
        raise ValueError(f"no such role: {role}")
    if message.get("tool_calls"):
        return {"role": role, "content": _blocks(content) + [_tool_use(call) for call in message["tool_calls"]]}
    return {"role": role, "content": content if isinstance(content, str) else _blocks(content)}


def _tool_use(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = msgspec.json.decode(function.get("arguments") or "{}", type=dict[str, Any])
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments}


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [_block(part) for part in content or ()]


def _block(part: dict[str, Any]) -> dict[str, Any]:
    """Images change their form; every other block is passed as it is."""
    if part["type"] != "image_url":
        return part
    url: str = part["image_url"]["url"]
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    kind, _, data = url.removeprefix("data:").partition(";base64,")
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}
