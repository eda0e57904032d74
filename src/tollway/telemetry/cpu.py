"""How much of one core this process uses."""

import time

_SPAN_MIN_S = 1.0


class CpuShare:
    """The share of one core since the last reading, all threads together; 1 is a whole core."""

    def __init__(self) -> None:
        self._read_at, self._used_s = time.monotonic(), time.process_time()
        self._share = 0.0

    def read(self) -> float:
        """The share; asked again within a second, the same."""
        now = time.monotonic()
        if now - self._read_at >= _SPAN_MIN_S:
            used_s = time.process_time()
            self._share = (used_s - self._used_s) / (now - self._read_at)
            self._read_at, self._used_s = now, used_s
        return self._share
