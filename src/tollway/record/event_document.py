"""An event as clients see it: in lists and over SSE."""

import msgspec

from tollway.record.reads import StoredEvent
from tollway.record.run_document import rfc3339

_json = msgspec.json.Encoder().encode


def event_json(event: StoredEvent) -> bytes:
    """`{seq, type, at, actor, data}` as JSON without line breaks (within JSON they can only be white space)."""
    data = "null" if event.data is None else event.data.replace("\r", " ").replace("\n", " ")
    return b'{"seq":%d,"type":"%b","at":"%b","actor":{"kind":"%b","id":%b},"data":%b}' % (
        event.seq,
        event.type.encode(),
        rfc3339(event.at).encode(),
        event.actor_kind.encode(),
        _json(event.actor_id),
        data.encode(),
    )
