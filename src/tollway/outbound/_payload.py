"""What a webhook says: of an ended run, the run as `GET /v1/runs/{id}` shows it; of an alert, the alert.

At most PAYLOAD_BYTES_MAX long, the same bytes at every attempt. What makes the payload too long is left out, the
largest part first, and said so.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from tollway.record.run_document import RunRow, rfc3339, run_is_final, run_json, run_state

PAYLOAD_BYTES_MAX = 20_000
"""Standard Webhooks asks for less than 20 kB."""

ERROR_MESSAGE_CHARS_MAX = 1000
"""What is kept of an error's message when the payload is too long even without the client's data."""

_PARTS = {"input": (5, b"null"), "metadata": (6, None), "output": (11, None)}
_ERROR_MESSAGE = 13
_ENDED_AT = 14


def webhook_payload(row: RunRow) -> bytes | None:
    """The body for a row of `read_runs`; None when that run has not ended."""
    if not run_is_final(row):
        return None
    payload = _payload(row, b"")
    if len(payload) <= PAYLOAD_BYTES_MAX:
        return payload
    columns, marks = list(row), b""
    for name in sorted(_PARTS, key=lambda name: len(row[_PARTS[name][0]] or b""), reverse=True):
        column, nothing = _PARTS[name]
        columns[column] = nothing
        marks += b',"%b_omitted":true' % name.encode()
        payload = _payload(columns, marks)
        if len(payload) <= PAYLOAD_BYTES_MAX:
            return payload
    columns[_ERROR_MESSAGE] = (row[_ERROR_MESSAGE] or "")[:ERROR_MESSAGE_CHARS_MAX]
    return _payload(columns, marks)


def alert_payload(alert: Mapping[str, Any]) -> bytes:
    """The body for an alert's document."""
    at: datetime = alert["at"]
    data = {**alert, "id": str(alert["id"]), "at": rfc3339(at)}
    return msgspec.json.encode({"type": f"alert.{alert['kind']}", "timestamp": rfc3339(at), "data": data})


def _payload(row: RunRow, marks: bytes) -> bytes:
    return b'{"type":"run.%b","timestamp":"%b","data":%b%b}}' % (
        run_state(row).encode(),
        rfc3339(row[_ENDED_AT]).encode(),
        run_json(row)[:-1],
        marks,
    )
