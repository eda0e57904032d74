"""The cache's tier in this process: the answers used last, within a bound of bytes and each within its time.

Pure: the time is an argument. What is over its time goes when it is asked for, or as the least used.
"""

from collections import OrderedDict

ENTRY_BYTES = 320
"""What an entry takes beside its value: its key, its place, Python's own."""

SHARE_MAX = 8
"""A value larger than an eighth of the whole is not kept: it would drive out too many."""


class Memory:
    """At most `bytes_max` of values and what they take beside."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self._entries: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def peek(self, key: bytes, now: float) -> bytes | None:
        """The value, which thereby becomes the one used last; None when there is none or its time is over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[1] <= now:
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def keep(self, key: bytes, value: bytes, expires_at: float) -> None:
        """Keep a value until `expires_at` (epoch seconds), in the place of an earlier one under the key."""
        self.drop(key)
        size = len(value) + ENTRY_BYTES
        if size > self.bytes_max // SHARE_MAX:
            return
        self._entries[key] = (value, expires_at)
        self.bytes += size
        while self.bytes > self.bytes_max:
            _, (least, _) = self._entries.popitem(last=False)
            self.bytes -= len(least) + ENTRY_BYTES

    def drop(self, key: bytes) -> None:
        """Forget a value; one that is not there is nothing."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= len(entry[0]) + ENTRY_BYTES
