"""A neutral request as the body of POST /chat/completions."""

from typing import Any

from tollway.domain.llm import LlmRequest
from tollway.llm.providers.wire import check_extra, passes, plain, refused, resent, shorten, to_json
from tollway.llm.schema import prepare

FORM = "openai.chat"
_RESERVED = frozenset(
    ("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "best_of")
)
_DECIDED = frozenset(("max_tokens", "max_completion_tokens", "stream", "stream_options"))
_USAGE_IN_STREAM = {"include_usage": True}


def encode(max_tokens_field: str, request: LlmRequest, model: str) -> bytes:
    """The body. Messages and tools are in this vendor's form already. Raises LlmError for what is not JSON."""
    if passes(request, FORM):
        return _resent(max_tokens_field, request, model)
    body: dict[str, Any] = {"model": model, "messages": request.messages, max_tokens_field: request.max_tokens}
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.stop:
        body["stop"] = request.stop
    if request.tools:
        body["tools"] = request.tools
        if request.tool_choice is not None:
            body["tool_choice"] = request.tool_choice
    if request.schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": schema_form(request)}
    if request.stream:
        body["stream"] = True
        body["stream_options"] = _USAGE_IN_STREAM
    if request.extra:
        check_extra(request.extra, _RESERVED)
        body = {**request.extra, **body}
    return to_json(body)


def schema_form(request: LlmRequest) -> dict[str, Any]:
    """The request's schema with its name, strict where it can be. Raises LlmError for one that is none."""
    try:
        prepared = prepare(request.schema or {})
    except (TypeError, ValueError, AttributeError) as error:
        raise refused(f"the schema of the answer cannot be used: {error}") from None
    strict = prepared.strict is not None
    return {"name": request.schema_name, "strict": strict, "schema": prepared.strict if strict else prepared.plain}


def refuse_several(request: LlmRequest) -> None:
    """Money is reserved for one answer. Raises LlmError for a client that asks for more."""
    given = request.sent.fields if request.sent is not None else {}
    for name in ("n", "best_of"):
        if name in given and plain(given[name]) not in (None, 1):
            raise refused(f"{name} must be 1: ask once for each answer")


def _resent(max_tokens_field: str, request: LlmRequest, model: str) -> bytes:
    refuse_several(request)
    ours: dict[str, Any] = {"model": model, max_tokens_field: request.max_tokens}
    if request.stream:
        given = plain(request.sent.fields.get("stream_options")) if request.sent is not None else None
        if given is not None and not isinstance(given, dict):
            raise refused(shorten(f"stream_options must be an object, not {given!r}"))
        ours |= {"stream": True, "stream_options": {**(given or {}), **_USAGE_IN_STREAM}}
    return resent(request, ours, _DECIDED)
