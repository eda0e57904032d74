"""What `/openapi.json` and `/docs` say of the wire. The vendors' own documents say what bodies hold."""

from typing import Any

from tollway.ingress.wire.door import FORMS, MODELS_PATH

_OBJECT = {"type": "object"}
_SUMMARIES = {
    "/v1/chat/completions": ("chat_completions", "OpenAI chat completions, governed", ("model", "messages")),
    "/v1/responses": ("responses", "OpenAI Responses, governed and stateless", ("model", "input")),
    "/v1/embeddings": ("embeddings", "OpenAI embeddings, governed", ("model", "input")),
    "/v1/messages": ("messages", "Anthropic messages, governed", ("model", "messages")),
}
_HEADERS = (
    ("x-tollway-lane", "The lane it waits in for capacity; `interactive` when absent."),
    ("x-tollway-task-type", "What kind of work it is, for tier shifts and reports."),
    ("x-tollway-cache", "`exact`: a kept answer may be given; `off`: none."),
    ("X-Tollway-Tenant", "The tenant an admin key acts for."),
)


def wire_paths() -> dict[str, Any]:
    """The paths of the wire, in OpenAPI's form."""
    paths: dict[str, Any] = {path: {"post": _post(*_SUMMARIES[path])} for path in FORMS}
    paths[MODELS_PATH] = {"get": _get("list_models", "Tiers and models that may be asked for")}
    one = _get("get_model", "One tier or model")
    one["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
    paths[f"{MODELS_PATH}/{{model}}"] = {"get": one}
    return paths


def _post(operation: str, summary: str, required: tuple[str, ...]) -> dict[str, Any]:
    body = {"type": "object", "required": list(required), "properties": {"model": {"type": "string"}}}
    described = _get(operation, summary)
    described["parameters"] = [
        {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in _HEADERS
    ]
    described["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    described["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return described


def _get(operation: str, summary: str) -> dict[str, Any]:
    return {
        "tags": ["wire"],
        "operationId": operation,
        "summary": summary,
        "description": "Needs the scope `submit`; the key as Bearer or in `x-api-key`.",
        "security": [{"key": []}],
        "parameters": [],
        "responses": {
            "200": {"description": "In the vendor's form.", "content": {"application/json": {"schema": _OBJECT}}},
            "default": {
                "description": "A refusal, in the vendor's form.",
                "content": {"application/json": {"schema": _OBJECT}},
            },
        },
    }
