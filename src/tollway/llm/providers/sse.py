"""Server-sent events as model vendors send them: the data of each event, whatever the chunks it came in."""

from tollway.domain.errors import LlmError

_EVENT_BYTES_MAX = 4 * 1024 * 1024


class SseReader:
    """Cuts a stream of bytes into the data of its events; LF and CRLF, comments and data of several lines."""

    __slots__ = ("_data", "_rest", "_size")

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that end in this chunk. Raises LlmError for an event of more than 4 MiB."""
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        events = []
        for raw in lines:
            line = raw.removesuffix(b"\r")
            if not line:
                if self._data:
                    events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                    self._data = []
                    self._size = 0
            elif line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
                self._size += len(line)
        if self._size + len(self._rest) > _EVENT_BYTES_MAX:
            raise LlmError("bad_response", f"an event of the stream exceeds {_EVENT_BYTES_MAX} bytes").charged()
        return events
