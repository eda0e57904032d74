"""HTTP/1.1 as the load generator speaks it: request bytes made beforehand, answers read with a few `bytes.find`.

The quick way serves what Tollway normally sends; any other legal form (header case, chunks, spaces in the JSON) falls
back to a real parse, so a surprise costs microseconds and never a wrong figure.
"""

from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from tollway.domain.words import RunState

ANSWER_BYTES_MAX = 64 * 1024 * 1024
HEAD_BYTES_MAX = 64 * 1024
RETRY_AFTER_S_MAX = 10.0
SERIAL_DIGITS = 9

_LENGTH = b"\r\ncontent-length: "
_STATES: dict[bytes, RunState] = {state.value.encode(): state for state in RunState}


class BadAnswer(Exception):
    """What came back is not an HTTP/1.1 answer this client can read."""


class Answer(NamedTuple):
    """One answer; `head` is the status line and headers without the blank line, `end` the bytes it took."""

    status: int
    head: bytes
    body: bytes
    end: int
    close: bool


def read_answer(data: bytes) -> Answer | None:
    """The first answer in `data`, or None while it is incomplete. Raises BadAnswer for what can never become one."""
    split = data.find(b"\r\n\r\n")
    if split < 0:
        if len(data) > HEAD_BYTES_MAX:
            raise BadAnswer("the headers do not end")
        return None
    at = data.find(_LENGTH, 0, split)
    if at < 0:
        return _read_with_care(data, split)
    start = at + len(_LENGTH)
    try:
        status, length = int(data[9:12]), int(data[start : data.find(b"\r\n", start)])
    except ValueError:
        raise BadAnswer(f"not an HTTP answer: {data[:80]!r}") from None
    return _cut(data, split, status, length, data.find(b"connection: close", 0, split) >= 0)


def _cut(data: bytes, split: int, status: int, length: int, close: bool) -> Answer | None:
    if not 0 <= length <= ANSWER_BYTES_MAX:
        raise BadAnswer(f"a body of {length} bytes")
    end = split + 4 + length
    if len(data) < end:
        return None
    return Answer(status, data[:split], data[split + 4 : end], end, close)


def _read_with_care(data: bytes, split: int) -> Answer | None:
    fields = headers(data[:split])
    try:
        status = int(data[9:12])
        close = fields.get("connection", "").lower() == "close" or data.startswith(b"HTTP/1.0")
        if status in (204, 304):
            return _cut(data, split, status, 0, close)
        if fields.get("transfer-encoding", "").lower() == "chunked":
            return _read_chunks(data, split, status, close)
        return _cut(data, split, status, int(fields["content-length"]), close)
    except (KeyError, ValueError):
        raise BadAnswer(f"neither a length nor chunks: {data[:80]!r}") from None


def _read_chunks(data: bytes, split: int, status: int, close: bool) -> Answer | None:
    parts: list[bytes] = []
    at = split + 4
    while (line := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line].partition(b";")[0], 16)
        if size == 0:
            done = (
                data.find(b"\r\n", line + 2) if data[line + 2 : line + 4] == b"\r\n" else data.find(b"\r\n\r\n", line)
            )
            if done < 0:
                return None
            end = done + (2 if done == line + 2 else 4)
            return Answer(status, data[:split], b"".join(parts), end, close)
        at = line + 2 + size + 2
        if not 0 < size <= ANSWER_BYTES_MAX:
            raise BadAnswer(f"a chunk of {size} bytes")
        parts.append(data[line + 2 : line + 2 + size])
    if len(data) > 2 * ANSWER_BYTES_MAX:
        raise BadAnswer("the chunks do not end")
    return None


def headers(head: bytes) -> dict[str, str]:
    """The header fields of an answer's head, names in lower case; of repeated fields the last."""
    fields: dict[str, str] = {}
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        fields[name.strip().lower().decode("latin-1")] = value.strip().decode("latin-1")
    return fields


def says_when(head: bytes) -> bool:
    """Whether a refusal says when to come again."""
    return "retry-after" in headers(head)


def retry_after_s(head: bytes, default_s: float = 1.0) -> float:
    """How long a refusal asks to wait, in seconds, at most RETRY_AFTER_S_MAX; `default_s` where it does not say."""
    fields = headers(head)
    try:
        if "retry-after-ms" in fields:
            wait_s = float(fields["retry-after-ms"]) / 1000
        else:
            wait_s = float(fields.get("retry-after", default_s))
    except ValueError:
        wait_s = default_s
    return min(max(wait_s, 0.0), RETRY_AFTER_S_MAX)


def run_id(body: bytes) -> bytes:
    """The `id` of a run document. Raises BadAnswer when it has none."""
    at = body.find(b'"id":"')
    if at >= 0 and body[at + 42 : at + 43] == b'"':
        return body[at + 6 : at + 42]
    return _field(body, "id").encode()


def run_state(body: bytes) -> RunState:
    """The `state` of a run document. Raises BadAnswer when it has none, or one outside the contract."""
    at = body.find(b'"state":"')
    if at >= 0:
        state = _STATES.get(body[at + 9 : body.find(b'"', at + 9)])
        if state is not None:
            return state
    try:
        return RunState(_field(body, "state"))
    except ValueError as error:
        raise BadAnswer(str(error)) from None


def run_time(body: bytes, name: bytes) -> bytes:
    """A time of a run document (`created_at`, `ended_at`) as it stands there. Raises BadAnswer when it is absent."""
    at = body.find(b'"' + name + b'":"')
    if at >= 0:
        start = at + len(name) + 4
        return body[start : body.find(b'"', start)]
    return _field(body, name.decode()).encode()


def run_calls(body: bytes) -> int:
    """How many LLM calls a run document tells of. Raises BadAnswer when it does not."""
    at = body.find(b'"llm_calls":')
    start = at + 12
    end = start
    while body[end : end + 1].isdigit():
        end += 1
    if at >= 0 and end > start:
        return int(body[start:end])
    try:
        return int(msgspec.json.decode(body)["usage"]["llm_calls"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise BadAnswer(f"no llm_calls in {body[:200]!r}") from error


def epoch_s(time: bytes) -> float:
    """An RFC 3339 time as seconds since the epoch. Raises BadAnswer for anything else."""
    try:
        return datetime.fromisoformat(time.decode()).timestamp()
    except ValueError as error:
        raise BadAnswer(f"not a time: {time!r}") from error


def _field(body: bytes, name: str) -> str:
    try:
        document: Any = msgspec.json.decode(body)
        value = document[name]
    except (msgspec.DecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise BadAnswer(f"no {name} in {body[:200]!r}") from error
    if not isinstance(value, str):
        raise BadAnswer(f"{name} is {value!r}")
    return value


class Requests:
    """Makes the requests of one agent's runs: everything but a serial number and an id is laid out beforehand.

    Each submit carries one of `texts` in turn, ending in a serial number never used twice, so no cache can answer; with
    `first_serial` None, the text as it is.
    """

    def __init__(self, host: str, api_key: str, agent: str, texts: list[str], first_serial: int | None = 0) -> None:
        common = f"Host: {host}\r\nAuthorization: Bearer {api_key}\r\n"
        self._numbered = first_serial is not None
        self._submits = [self._submit_parts(common, agent, text, self._numbered) for text in texts]
        self._poll_tail = f" HTTP/1.1\r\n{common}\r\n".encode()
        self._serial = first_serial or 0

    @staticmethod
    def _submit_parts(common: str, agent: str, text: str, numbered: bool) -> tuple[bytes, bytes]:
        mark = "0" * SERIAL_DIGITS
        body = msgspec.json.encode({"agent": agent, "input": {"text": f"{text} #{mark}" if numbered else text}})
        head = (
            f"POST /v1/runs HTTP/1.1\r\n{common}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        if not numbered:
            return head.encode() + body, b""
        cut = body.rindex(mark.encode())
        return head.encode() + body[:cut], body[cut + SERIAL_DIGITS :]

    def submit(self) -> bytes:
        """The next `POST /v1/runs`."""
        serial = self._serial
        self._serial = serial + 1
        before, after = self._submits[serial % len(self._submits)]
        return b"%b%09d%b" % (before, serial, after) if self._numbered else before

    def poll(self, run: bytes) -> bytes:
        """`GET /v1/runs/{id}`."""
        return b"GET /v1/runs/" + run + self._poll_tail
