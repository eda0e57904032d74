"""Snapshots of PostgreSQL as values: which transactions had ended at a moment, and steps from one to a later one.

Pure: no I/O.
"""

from typing import NamedTuple


class Snapshot(NamedTuple):
    """Every transaction below `xmin` has ended, none from `xmax` on; of those between, `running` have not."""

    xmin: int
    xmax: int
    running: tuple[int, ...] = ()

    def sees(self, xid: int) -> bool:
        """Whether the transaction had ended."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)

    def __str__(self) -> str:
        """As PostgreSQL writes it."""
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.running))}"


def read_snapshot(text: str) -> Snapshot:
    """A pg_snapshot's text."""
    xmin, xmax, running = text.split(":")
    return Snapshot(int(xmin), int(xmax), tuple(int(xid) for xid in running.split(",") if xid))


def step_towards(last: Snapshot, now: Snapshot, xids_max: int) -> Snapshot:
    """What sees all that `last` sees, nothing that `now` does not, and at most `xids_max` numbers beyond it.

    `now` must have been taken after `last`. It is `now` itself when that is near enough.
    """
    bound = last.xmax + xids_max
    if bound >= now.xmax:
        return now
    running = tuple(xid for xid in now.running if xid < bound)
    return Snapshot(min(now.xmin, bound), bound, running)


XIDS_USUAL = 10_000


class Stride(NamedTuple):
    """How many transactions a pass looks at: fewer after one that found much, more after one that found little."""

    xids: int = XIDS_USUAL

    def after_failure(self) -> "Stride":
        """The next pass' stride if this one fails, as when it would take longer than it may."""
        return Stride(max(XIDS_LEAST, min(self.xids, XIDS_USUAL) // 2))

    def after(self, counted: int) -> "Stride":
        """The next pass' stride, by the rows that this one counted."""
        if counted > ROWS_MANY:
            return Stride(max(XIDS_LEAST, self.xids // 2))
        return Stride(min(XIDS_MOST, self.xids * 2)) if counted < ROWS_FEW else self


ROWS_MANY, ROWS_FEW = 40_000, 10_000
XIDS_LEAST, XIDS_MOST = 1, 1 << 40
