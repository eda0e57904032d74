"""What `/openapi.json` says beyond the paths: bodies (from the very types that decode them), parameters, answers."""

from importlib.metadata import version
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from tollway.domain.alerts import AlertKind
from tollway.domain.usage import GROUPS
from tollway.ingress.wire.described import wire_paths

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_RUN = {"$ref": "#/components/schemas/Run"}
_EVENT = {"$ref": "#/components/schemas/Event"}

_PAGE = (
    (
        "limit",
        "query",
        "How many at most, 1 to 500; 50 when absent.",
        {"type": "integer", "minimum": 1, "maximum": 500},
    ),
    ("cursor", "query", "`next` of the page before.", {"type": "string"}),
)
_STATES = ["queued", "running", "waiting", "parked", "succeeded", "failed", "cancelled", "expired", "dead"]
_RUN_FILTERS = (
    ("state", "query", "Runs in this state.", {"type": "string", "enum": _STATES}),
    ("agent", "query", "Runs of this agent.", {"type": "string"}),
    ("lane", "query", "Runs in this lane.", {"type": "string"}),
    ("tenant", "query", "Runs of this tenant (admin keys).", {"type": "string"}),
    ("created_after", "query", "Accepted at or after this RFC 3339 time.", {"type": "string", "format": "date-time"}),
    ("created_before", "query", "Accepted before this RFC 3339 time.", {"type": "string", "format": "date-time"}),
    ("metadata.KEY", "query", "Runs whose metadata has this value under KEY.", {"type": "string"}),
)
_DEAD_FILTERS = tuple(
    (name, "query", f"Dead letters of this {name}.", {"type": "string"})
    for name in ("fingerprint", "agent", "lane", "tenant", "code")
)
_LETTER_FILTERS = tuple(given for given in _DEAD_FILTERS if given[0] != "fingerprint")
_ALERT_FILTERS = (
    ("tenant", "query", "Alerts of this tenant (admin keys).", {"type": "string"}),
    ("kind", "query", "Alerts of this kind.", {"type": "string", "enum": [kind.value for kind in AlertKind]}),
    ("since", "query", "Told at or after this RFC 3339 time.", {"type": "string", "format": "date-time"}),
    ("open", "query", "`true`: only those that are not over.", {"type": "boolean"}),
)
_DAYS = (
    ("from", "query", "The first UTC day; 30 days before `to` when absent.", {"type": "string", "format": "date"}),
    ("to", "query", "The UTC day after the last; tomorrow when absent.", {"type": "string", "format": "date"}),
)
_USAGE_GROUPS = ("group_by", "query", "Comma-separated: any of " + ", ".join(GROUPS) + ".", {"type": "string"})
_USAGE_FILTERS = tuple((name, "query", f"Only of this {name}.", {"type": "string"}) for name in GROUPS if name != "day")
_CSV = ("format", "query", "`csv` for a whole table.", {"type": "string", "enum": ["json", "csv"]})
_RUNS_BY = ("group_by", "query", "`agent`, or `tenant,agent`.", {"type": "string"})
_TENANT_HEADER = ("X-Tollway-Tenant", "header", "The tenant an admin key acts for.", {"type": "string"})
_LAST_EVENT = ("Last-Event-ID", "header", "Resume a stream after this event.", {"type": "integer"})
_SUBMIT_HEADERS = (
    ("Idempotency-Key", "header", "Same key, same body: the same run, for 24 hours at least.", {"type": "string"}),
    (
        "Prefer",
        "header",
        "`wait=N`: answer 200 with the ended run if it ends within N (≤ 60) seconds.",
        {"type": "string"},
    ),
    ("Accept", "header", "`text/event-stream`: accepted first, then the run's events and tokens.", {"type": "string"}),
)

# operation: (scope, summary, parameters, body, {status: what}); a body is the name of a schema, or with [] a list of it
_OPERATIONS: dict[str, tuple[str | None, str, tuple[Any, ...], str | None, dict[int, Any]]] = {
    "submit_run": ("submit", "Submit a run", _SUBMIT_HEADERS, "RunBody", {202: _RUN, 200: _RUN}),
    "get_run": ("read", "Read a run", (), None, {200: _RUN}),
    "list_runs": ("read", "List runs, newest first", (*_PAGE, *_RUN_FILTERS), None, {200: "Run"}),
    "list_events": ("read", "Read or follow a run's events", (*_PAGE, _LAST_EVENT), None, {200: "Event"}),
    "list_steps": ("read", "Read a run's journal", _PAGE, None, {200: {"type": "object"}}),
    "cancel_run": ("cancel", "Cancel a run", (), None, {202: _RUN, 200: _RUN}),
    "replay_run": ("submit", "Replay an ended run", (), "ReplayBody", {202: _RUN}),
    "submit_batch": ("submit", "Submit up to 10,000 runs", (), "BatchBody", {200: {"type": "object"}}),
    "cancel_runs": (
        "cancel",
        "Count or cancel many runs",
        (),
        "BulkBody",
        {200: {"type": "object"}, 202: {"type": "object"}},
    ),
    "list_dead_letters": ("read", "Dead letters, grouped", (*_PAGE, *_DEAD_FILTERS), None, {200: {"type": "object"}}),
    "list_letters": ("read", "Dead letters of one group", (*_PAGE, *_LETTER_FILTERS), None, {200: {"type": "object"}}),
    "discard_dead_letters": (
        "cancel",
        "Count or discard dead letters",
        (),
        "DeadDiscardBody",
        {200: {"type": "object"}, 202: {"type": "object"}},
    ),
    "replay_dead_letters": (
        "submit",
        "Count or replay dead letters",
        (),
        "DeadReplayBody",
        {200: {"type": "object"}, 202: {"type": "object"}},
    ),
    "list_tenants": ("admin", "List tenants", _PAGE, None, {200: {"type": "object"}}),
    "get_tenant": ("read", "Read a tenant", (), None, {200: {"type": "object"}}),
    "read_use": ("read", "What a tenant uses of its quotas", (), None, {200: {"type": "object"}}),
    "put_tenant": (
        "admin",
        "Make or change a tenant",
        (),
        "TenantBody",
        {200: {"type": "object"}, 201: {"type": "object"}},
    ),
    "list_keys": ("admin", "List a tenant's API keys", _PAGE, None, {200: {"type": "object"}}),
    "create_key": ("admin", "Make an API key; it is shown once", (), "KeyBody", {201: {"type": "object"}}),
    "revoke_key": ("admin", "Revoke an API key", (), None, {204: None}),
    "list_budgets": ("read", "A tenant's budgets as they stand", (), None, {200: {"type": "object"}}),
    "put_budgets": ("admin", "Replace a tenant's budgets", (), "BudgetsBody", {200: {"type": "object"}}),
    "get_rungs": ("read", "What is forced and lifted of a budget", (), None, {200: {"type": "object"}}),
    "put_rungs": ("admin", "Force and lift rungs of a budget", (), "RungsBody", {200: {"type": "object"}}),
    "list_shifts": ("admin", "List the tier shifts in force", (), None, {200: {"type": "object"}}),
    "put_shifts": ("admin", "Replace the tier shifts in force", (), "ShiftBody[]", {200: {"type": "object"}}),
    "list_alerts": ("read", "Alerts, newest first", (*_PAGE, *_ALERT_FILTERS), None, {200: {"type": "object"}}),
    "read_usage": (
        "read",
        "Calls, tokens, money and savings by groups",
        (*_PAGE, _USAGE_GROUPS, *_DAYS, *_USAGE_FILTERS, _CSV),
        None,
        {200: {"type": "object"}},
    ),
    "read_usage_runs": (
        "read",
        "Percentiles of calls and cost a run, by agent",
        (*_PAGE, _RUNS_BY, *_DAYS, *_USAGE_FILTERS[:2]),
        None,
        {200: {"type": "object"}},
    ),
    "list_agents": ("read", "Agents as workers published them", (), None, {200: {"type": "object"}}),
    "list_routes": ("read", "Routes: limits, use, breakers, latency", (), None, {200: {"type": "object"}}),
    "list_prices": ("read", "What each route's calls cost", (), None, {200: {"type": "object"}}),
    "read_scaling": (
        "read",
        "Backlog and wanted workers by lane",
        (("lane", "query", "Of this lane alone.", {"type": "string"}),),
        None,
        {200: {"type": "object"}},
    ),
    "healthz": (None, "Whether the process lives", (), None, {200: {"type": "object"}}),
    "readyz": (
        None,
        "Whether everything configured is at work",
        (),
        None,
        {200: {"type": "object"}},
    ),
    "metrics": (None, "Prometheus metrics", (), None, {200: None}),
}


def describe(operation: str) -> dict[str, Any]:
    """What a route's decorator says about the operation."""
    return {"operation_id": operation, "openapi_extra": _extra(operation), "response_model": None}


def build_openapi(app: FastAPI, bodies: list[type[msgspec.Struct]]) -> dict[str, Any]:
    """The whole document, hot routes included; `bodies` are the types that decode requests."""
    document = get_openapi(
        title="Tollway", version=version("tollway"), routes=app.routes, description="A durable runtime for AI agents."
    )
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"] = _extra(operation["operationId"])["responses"]
    hot = document["paths"]
    hot["/v1/runs"] = {
        "post": {"tags": ["runs"], "operationId": "submit_run", **_extra("submit_run")},
        **hot["/v1/runs"],
    }
    run_path = [{"name": "run_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}]
    read = {"tags": ["runs"], "operationId": "get_run", **_extra("get_run")}
    read["parameters"] = run_path + read["parameters"]
    hot["/v1/runs/{run_id}"] = {"get": read}
    _, schemas = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    components = document.setdefault("components", {})
    components["schemas"] = {**_schemas(), **schemas}
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "bearerFormat": "tw_…"}}
    document["paths"] = dict(sorted((hot | wire_paths()).items()))
    return document


def _extra(name: str) -> dict[str, Any]:
    scope, summary, parameters, body, statuses = _OPERATIONS[name]
    headers = parameters if scope is None else (*parameters, _TENANT_HEADER)
    extra: dict[str, Any] = {
        "summary": summary,
        "parameters": [
            {"name": given, "in": where, "description": text, "required": False, "schema": schema}
            for given, where, text, schema in headers
        ],
        "responses": {str(status): _answer(what) for status, what in statuses.items()},
    }
    extra["responses"]["default"] = {
        "description": "A refusal, as an RFC 9457 document.",
        "content": {"application/problem+json": {"schema": _PROBLEM}},
    }
    if body is not None:
        schema: dict[str, Any] = {"$ref": f"#/components/schemas/{body.removesuffix('[]')}"}
        schema = {"type": "array", "items": schema} if body.endswith("[]") else schema
        extra["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    if scope is not None:
        extra["security"] = [{"key": []}]
        extra["description"] = f"Needs the scope `{scope}`."
    return extra


def _answer(what: Any) -> dict[str, Any]:
    if what is None:
        return {"description": "Done."}
    schema = what
    if isinstance(what, str):
        items = {"type": "array", "items": {"$ref": f"#/components/schemas/{what}"}}
        schema = {"type": "object", "properties": {"items": items, "next": {"type": ["string", "null"]}}}
    return {"description": "Done.", "content": {"application/json": {"schema": schema}}}


def _schemas() -> dict[str, Any]:
    text, moment, count = {"type": "string"}, {"type": ["string", "null"], "format": "date-time"}, {"type": "integer"}
    usage = dict.fromkeys(("llm_calls", "steps", "tool_calls", "input_tokens", "output_tokens", "cached_tokens"), count)
    return {
        "Problem": {
            "type": "object",
            "required": ["type", "title", "status", "detail", "code"],
            "properties": {"type": text, "title": text, "status": count, "detail": text, "code": text},
        },
        "Event": {
            "type": "object",
            "properties": {"seq": count, "type": text, "at": moment, "actor": {"type": "object"}, "data": {}},
        },
        "Run": {
            "type": "object",
            "properties": {
                **dict.fromkeys(("id", "tenant", "agent", "version", "lane", "trace_id"), text),
                "state": {"type": "string", "enum": _STATES},
                "blocked": {"type": ["object", "null"]},
                "input": {},
                "output": {},
                "error": {"type": ["object", "null"]},
                "attempt": count,
                "metadata": {"type": "object"},
                "usage": {
                    "type": "object",
                    "properties": {**usage, "cost_usd": {"type": "number"}, "cost_nano": count},
                },
                "degraded": {"type": "array", "items": text},
                "replay_of": {"type": ["string", "null"]},
                **dict.fromkeys(("created_at", "predicted_start_at", "started_at", "ended_at"), moment),
            },
        },
    }
