"""A neutral request as the body of POST /chat/completions."""

from typing import Any

from tollway.domain.llm import LlmRequest
from tollway.llm.providers.wire import check_extra, refused, to_json
from tollway.llm.schema import prepare

_RESERVED = frozenset(
    ("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "best_of")
)
_USAGE_IN_STREAM = {"include_usage": True}


def encode(max_tokens_field: str, request: LlmRequest, model: str) -> bytes:
    """The body. Messages and tools are in this vendor's form already. Raises LlmError for what is not JSON."""
    body: dict[str, Any] = {"model": model, "messages": request.messages, max_tokens_field: request.max_tokens}
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.tools:
        body["tools"] = request.tools
    if request.schema is not None:
        body["response_format"] = _response_format(request.schema, request.schema_name)
    if request.stream:
        body["stream"] = True
        body["stream_options"] = _USAGE_IN_STREAM
    if request.extra:
        check_extra(request.extra, _RESERVED)
        body = {**request.extra, **body}
    return to_json(body)


def _response_format(schema: dict[str, Any], name: str) -> dict[str, Any]:
    try:
        prepared = prepare(schema)
    except (TypeError, ValueError, AttributeError) as error:
        raise refused(f"the schema of the answer cannot be used: {error}") from None
    strict = prepared.strict is not None
    form = {"name": name, "strict": strict, "schema": prepared.strict if strict else prepared.plain}
    return {"type": "json_schema", "json_schema": form}
