"""Server-sent events, parsed as they arrive: bytes in, events out, whatever the chunks."""

from collections.abc import Iterator
from typing import NamedTuple


class Message(NamedTuple):
    """One event of the stream; `id` is empty where the server sent none."""

    id: str
    event: str
    data: bytes


class SseParser:
    """Holds what is not yet a whole line or a whole event."""

    def __init__(self) -> None:
        self._rest = b""
        self._id = ""
        self._event = ""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """The events that `chunk` completes. A cut stream's last, incomplete event is never given out."""
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            message = self._line(line.removesuffix(b"\r"))
            if message is not None:
                yield message

    def _line(self, line: bytes) -> Message | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id":
            self._id = value.decode("utf-8", "replace")
        return None

    def _dispatch(self) -> Message | None:
        data, event, id_ = self._data, self._event, self._id
        self._data, self._event, self._id = [], "", ""
        return Message(id_, event or "message", b"\n".join(data)) if data else None
