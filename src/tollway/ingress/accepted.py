"""The answer to an accept, put together from the request alone: what a read of the new run would show."""

import msgspec

from tollway.record.accept import NewRun, place_of
from tollway.record.run_document import KEY_GATE, blocked_json, rfc3339_epoch

_json = msgspec.json.Encoder().encode

_ACCEPTED = (
    b'{"id":"%b","tenant":%b,"agent":%b,"version":%b,"lane":%b,"state":"queued","blocked":%b,"input":%b,"output":null,"error":null,'
    b'"attempt":1,"metadata":%b,"trace_id":"%b","usage":{"llm_calls":0,"steps":0,"tool_calls":0,"input_tokens":0,'
    b'"output_tokens":0,"cached_tokens":0,"cost_usd":0,"cost_nano":0},"degraded":[],"replay_of":%b,"created_at":"%b",'
    b'"predicted_start_at":"%b","started_at":null,"ended_at":null}'
)


def accepted_json(run: NewRun, *, tenant_paused: bool, waits: bool = False) -> bytes:
    """The new run's JSON, as `run_json` would give it right after the accept; `waits` for its concurrency key."""
    text = str(run.id)
    blocked = b"null"
    if run.delay_s > 0:
        blocked = blocked_json("time", place_of(run), run.tenant)
    elif waits:
        blocked = blocked_json(f"{KEY_GATE}:{run.concurrency_key}", None, run.tenant)
    elif tenant_paused:
        blocked = blocked_json(None, None, run.tenant)
    return _ACCEPTED % (
        text.encode(),
        _json(run.tenant),
        _json(run.agent),
        _json(run.version),
        _json(run.lane),
        blocked,
        run.input,
        b"{}" if run.metadata is None else run.metadata.encode(),
        text.replace("-", "").encode(),
        b"null" if run.replay_of is None else b'"%b"' % str(run.replay_of).encode(),
        rfc3339_epoch(run.created_at).encode(),
        rfc3339_epoch(run.predicted_start_at).encode(),
    )
