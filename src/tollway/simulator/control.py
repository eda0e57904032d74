"""What the simulated provider answers besides calls: `/sim/*` for whoever runs the simulation, models and health.

`GET /sim/ledger?after=N&limit=L` shows the rows numbered above N (at most 100,000 a request; `next` leads on) and the
totals, `?totals=1` the totals alone. `GET /sim/limits?after=S` shows what passed and was refused, by model and second.
"""

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import msgspec

from tollway.domain.errors import ConfigError
from tollway.simulator.desk import Desk
from tollway.simulator.wires import DEFAULT_WIRE, wire_at

ROWS_MAX = 100_000
MODELS = ("sim-fast", "sim-capable", "sim-powerful")

Reply = tuple[int, bytes]
Route = Callable[[Desk, bytes, bytes], Reply]

_json = msgspec.json.encode


def control(desk: Desk, method: bytes, path: bytes, query: bytes, body: bytes) -> Reply:
    """Status and JSON body for anything that is not a call; unknown routes get the vendor's 404."""
    routes = _ROUTES.get(path)
    found = wire_at(path)
    wire = found or DEFAULT_WIRE
    name = f"{method.decode('latin-1')} {path.decode('latin-1')}"
    if routes is None and found is None:
        return 404, wire.error("not_found", f"Unknown request URL: {name}. Please check the URL for typos.")
    route = (routes or {}).get(method)
    if route is None:
        return 405, wire.error("bad_request", f"Not allowed: {name}")
    return route(desk, query, body)


def _config(desk: Desk, query: bytes, body: bytes) -> Reply:
    return 200, _json(desk.settings.shown)


def _change(desk: Desk, query: bytes, body: bytes) -> Reply:
    try:
        settings = desk.settings.changed(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return 400, _json({"error": {"message": f"the body is not JSON: {error}"}})
    except ConfigError as error:
        return 422, _json({"error": {"message": f"{error.key}: {error.remedy}", "key": error.key}})
    desk.change(settings, time.monotonic())
    return 200, _json(settings.shown)


def _ledger(desk: Desk, query: bytes, body: bytes) -> Reply:
    try:
        asked = parse_qs(query.decode("ascii"), strict_parsing=bool(query))
        after = int(asked.pop("after", ["0"])[-1])
        limit = int(asked.pop("limit", [str(ROWS_MAX)])[-1])
        totals_only = asked.pop("totals", ["0"])[-1] not in ("0", "false", "")
    except ValueError:
        return 422, _json({"error": {"message": "after and limit must be whole numbers, totals 1 or 0"}})
    if asked or after < 0 or limit < 0:
        known = "the parameters are after and limit (0 or more) and totals (1 or 0)"
        return 422, _json({"error": {"message": known}})
    totals = desk.ledger.totals()
    if totals_only:
        return 200, _json({"totals": totals})
    rows = list(desk.ledger.rows(after, min(limit, ROWS_MAX)))
    onward = after + len(rows)
    following = onward if rows and onward < len(desk.ledger) else None
    return 200, _json({"rows": rows, "totals": totals, "next": following})


def _limits(desk: Desk, query: bytes, body: bytes) -> Reply:
    try:
        asked = parse_qs(query.decode("ascii"), strict_parsing=bool(query))
        after = int(asked.pop("after", ["-1"])[-1])
    except ValueError:
        return 422, _json({"error": {"message": "after must be a whole number of seconds"}})
    if asked:
        return 422, _json({"error": {"message": "the only parameter is after"}})
    return 200, _json(desk.meter.shown(after, time.monotonic()))


def _reset(desk: Desk, query: bytes, body: bytes) -> Reply:
    desk.reset(time.monotonic())
    return 200, _json({"totals": desk.ledger.totals()})


def _models(desk: Desk, query: bytes, body: bytes) -> Reply:
    names = dict.fromkeys([*MODELS, *desk.settings.models])
    items: list[dict[str, Any]] = [
        {"id": name, "object": "model", "created": 1735689600, "owned_by": "simulated"} for name in names
    ]
    return 200, _json({"object": "list", "data": items})


def _health(desk: Desk, query: bytes, body: bytes) -> Reply:
    return 200, b'{"status":"ok"}'


_ROUTES: dict[bytes, dict[bytes, Route]] = {
    b"/sim/config": {b"GET": _config, b"POST": _change},
    b"/sim/ledger": {b"GET": _ledger},
    b"/sim/limits": {b"GET": _limits},
    b"/sim/reset": {b"POST": _reset},
    b"/v1/models": {b"GET": _models},
    b"/healthz": {b"GET": _health},
}
