"""The answer to an accept, put together from the request alone: what a read of the new run would show."""

import msgspec

from tollway.domain.gates import Blocked, Gate
from tollway.record.accept import NewRun
from tollway.record.run_document import Standing, blocked_json, held_back, rfc3339_epoch

_json = msgspec.json.Encoder().encode

_ACCEPTED = (
    b'{"id":"%b","tenant":%b,"agent":%b,"version":%b,"lane":%b,"state":"queued","blocked":%b,"input":%b,"output":null,"error":null,'
    b'"attempt":1,"metadata":%b,"trace_id":"%b","usage":{"llm_calls":0,"steps":0,"tool_calls":0,"input_tokens":0,'
    b'"output_tokens":0,"cached_tokens":0,"cost_usd":0,"cost_nano":0},"degraded":[],"replay_of":%b,"created_at":"%b",'
    b'"predicted_start_at":"%b","started_at":null,"ended_at":null}'
)


def accepted_json(run: NewRun, standing: Standing, *, waits: bool = False) -> bytes:
    """The new run's JSON, as `run_json` would give it right after the accept; `waits` for its concurrency key."""
    text = str(run.id)
    blocked = Blocked(Gate.KEY, run.concurrency_key) if waits else None
    if run.delay_s > 0:
        blocked = Blocked(Gate.TIME, None, run.created_at + run.delay_s)
    blocked = blocked or held_back(standing, run.tenant, run.lane, run.agent)
    return _ACCEPTED % (
        text.encode(),
        _json(run.tenant),
        _json(run.agent),
        _json(run.version),
        _json(run.lane),
        blocked_json(blocked),
        run.input,
        b"{}" if run.metadata is None else run.metadata.encode(),
        text.replace("-", "").encode(),
        b"null" if run.replay_of is None else b'"%b"' % str(run.replay_of).encode(),
        rfc3339_epoch(run.created_at).encode(),
        rfc3339_epoch(run.predicted_start_at).encode(),
    )
