"""A run as clients see it (`GET /v1/runs/{id}`, webhooks, lists): JSON bytes put together from a row of `read_runs`.

It is built by hand because every poll of every client passes here; a test compares it with a plain encoder.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

import msgspec

from tollway.domain.gates import Blocked, Gate
from tollway.domain.money import NANO

RunRow = Sequence[Any]
"""A row of `read_runs`: its columns by their place."""

LIVE_STATE_NAMES = ("queued", "running", "waiting", "parked")
"""What `queue.state` means."""

PARKED = LIVE_STATE_NAMES.index("parked")

_json = msgspec.json.Encoder().encode

_RUN = (
    b'{"id":"%b","tenant":%b,"agent":%b,"version":%b,"lane":%b,"state":"%b","blocked":%b,"input":%b,"output":%b,"error":%b,'
    b'"attempt":%d,"metadata":%b,"trace_id":"%b","usage":{"llm_calls":%d,"steps":%d,"tool_calls":%d,"input_tokens":%d,'
    b'"output_tokens":%d,"cached_tokens":%d,"cost_usd":%b,"cost_nano":%d},"degraded":%b,"replay_of":%b,"created_at":"%b",'
    b'"predicted_start_at":%b,"started_at":%b,"ended_at":%b}'
)


def rfc3339(moment: datetime) -> str:
    """A UTC moment with milliseconds."""
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"


def rfc3339_epoch(epoch_s: float) -> str:
    """Epoch seconds as a UTC moment with milliseconds, cut off as the database's are."""
    return rfc3339(datetime.fromtimestamp(epoch_s, UTC))


def usd_text(nano: int) -> str:
    """Nano-dollars as a JSON number of dollars, exact to the last of its nine decimals."""
    if not nano:
        return "0"
    whole, rest = divmod(abs(nano), NANO)
    sign = "-" if nano < 0 else ""
    return f"{sign}{whole}.{rest:09d}".rstrip("0").rstrip(".")


class Standing(Protocol):
    """What holds queued runs back beside their own gates, as far as this process knows."""

    def paused(self, tenant: str) -> bool:
        """Whether the tenant's runs are held back."""

    def broke(self, tenant: str, lane: str, agent: str) -> Blocked | None:
        """Which budget keeps all runs of a line waiting."""

    def class_blocked(self, agent: str) -> Blocked | None:
        """Why no run of an agent is started just now, whoever's it is."""


def run_json(row: RunRow, standing: Standing | None = None) -> bytes:
    """The run's JSON. Without `standing`, it is told only of its own gate why it does not start."""
    # fmt: off
    (run_id, tenant, agent, version, lane, input_, metadata, created_at, predicted_start_at, replay_of,
     state, output, error_code, error_message, ended_at, degraded,
     live_state, gate, attempt, started_at,
     llm_calls, steps, tool_calls, input_tokens, output_tokens, cached_tokens, cost_nano,
     opens_at, concurrency_key, full) = row
    # fmt: on
    text = str(run_id)
    blocked = b"null"
    if state is None:
        state = LIVE_STATE_NAMES[live_state or 0]
        if gate is not None:
            blocked = blocked_json(_gated(gate, opens_at, concurrency_key, parked=live_state == PARKED))
        elif not live_state and standing is not None:
            blocked = blocked_json(held_back(standing, tenant, lane, agent, full=bool(full)))
    return _RUN % (
        text.encode(),
        _json(tenant),
        _json(agent),
        _json(version),
        _json(lane),
        state.encode(),
        blocked,
        input_,
        b"null" if output is None else output,
        b"null" if error_code is None else _json({"code": error_code, "message": error_message or ""}),
        attempt,
        b"{}" if metadata is None else metadata.encode(),
        text.replace("-", "").encode(),
        llm_calls,
        steps,
        tool_calls,
        input_tokens,
        output_tokens,
        cached_tokens,
        usd_text(cost_nano).encode(),
        cost_nano,
        _json(degraded) if degraded else b"[]",
        b'"%b"' % str(replay_of).encode() if replay_of is not None else b"null",
        rfc3339(created_at).encode(),
        _moment(predicted_start_at),
        _moment(started_at if started_at is None else max(started_at, created_at)),  # two processes' clocks
        _moment(ended_at),
    )


def held_back(standing: Standing, tenant: str, lane: str, agent: str, *, full: bool = False) -> Blocked | None:
    """What holds a queued run back that no gate of its own does; `full` where its tenant has as many as may run."""
    if standing.paused(tenant):
        return Blocked("tenant", tenant)
    broke = standing.broke(tenant, lane, agent)
    if broke is not None:
        return broke
    if full:
        return Blocked("max_running", tenant)
    return standing.class_blocked(agent)


def blocked_json(blocked: Blocked | None) -> bytes:
    """Why a run may not be claimed, as JSON."""
    if blocked is None:
        return b"null"
    until = None if blocked.until is None else rfc3339_epoch(blocked.until)
    return _json({"reason": blocked.reason, "key": blocked.key, "until": until})


def _gated(gate: str, opens_at: datetime | None, concurrency_key: str | None, *, parked: bool) -> Blocked:
    reason, _, key = gate.partition(":")
    if reason == Gate.KEY:
        key = concurrency_key or ""
    elif parked and reason == Gate.TIME:  # as the version before parks
        reason = Gate.CAPACITY
    return Blocked(reason, key or None, None if opens_at is None else opens_at.timestamp())


def run_is_final(row: RunRow) -> bool:
    """Whether the run has ended."""
    return row[10] is not None


def run_state(row: RunRow) -> str:
    """The state's word."""
    return row[10] or LIVE_STATE_NAMES[row[16] or 0]


def run_id(row: RunRow) -> UUID:
    """The run's id."""
    return UUID(int=row[0].int)


def run_tenant(row: RunRow) -> str:
    """The run's tenant."""
    tenant: str = row[1]
    return tenant


def _moment(moment: datetime | None) -> bytes:
    return b"null" if moment is None else b'"%b"' % rfc3339(moment).encode()
