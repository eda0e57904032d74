"""Sums up the ledger and ended runs as they come, each row exactly once, whatever commits late or is rolled back.

A pass counts what the present snapshot sees and that of the last pass did not, and moves the cursor in the same
transaction. The cursor's row is locked meanwhile, so a second keeper counts nothing twice.
"""

from dataclasses import dataclass
from datetime import date

from tollway.domain.errors import ConfigError
from tollway.domain.snapshots import Snapshot, Stride, read_snapshot, step_towards
from tollway.record.database import Connection, Database

_FOREIGN = (
    "was restored from a dump: its transactions have begun anew, so usage is not counted any more; have it counted "
    "afresh, as the database's owner: select recount_usage()"
)


@dataclass(frozen=True, slots=True)
class Counted:
    """What a pass found: entries and runs counted. `behind` says that there is more to do at once."""

    entries: int = 0
    runs: int = 0
    behind: bool = False

    @property
    def anything(self) -> bool:
        """Whether it found anything."""
        return bool(self.entries or self.runs or self.behind)


NOTHING = Counted()


class Rollup:
    """The keeper's verbs on usage. All raise DatabaseUnavailable."""

    def __init__(self, database: Database, stride: Stride | None = None) -> None:
        self._database = database
        self._stride = stride or Stride()

    async def awaits(self) -> bool:
        """Whether there is anything to count or to fold: one query that reads next to nothing."""
        return bool(await self._database.value("find_uncounted"))

    async def count(self) -> Counted:
        """Count what is new, a bounded part of it; once all is counted, fold a day that is over into its month.

        Raises ConfigError for a database whose transactions are not those that were counted.
        """
        async with self._database.connection() as connection, connection.transaction():
            held = await self._database.on(connection, "lock_usage_cursor")
            if not held:
                return NOTHING
            last = read_snapshot(held[0]["snapshot"])
            now = read_snapshot((await self._database.on(connection, "present_snapshot"))[0]["snapshot"])
            if now.xmax < last.xmax:
                raise ConfigError("database.url", "(hidden)", _FOREIGN)
            stride, self._stride = self._stride, self._stride.after_failure()
            upto = step_towards(last, now, stride.xids)
            counted = await self._count(connection, (last, upto), held[0]["folded"])
            behind = upto != now
            if not behind and held[0]["folded"] < held[0]["today"]:
                await self._database.on(connection, "fold_usage", held[0]["folded"])
                behind = True
        found = counted[0] + counted[1]
        self._stride = stride.after(found)
        return Counted(*counted, behind)

    async def summarize(self) -> None:
        """Tell the indexes what is in the newest pages, so that the next passes need not read them."""
        await self._database.rows("summarize_xids")

    async def _count(
        self, connection: Connection, snapshots: tuple[Snapshot, Snapshot], folded: date
    ) -> tuple[int, int]:
        last, upto = snapshots
        bounds = (str(last), str(upto), last.xmin, last.xmax, upto.xmin, upto.xmax, folded)
        entries = await self._database.on(connection, "count_entries", *bounds)
        runs = await self._database.on(connection, "count_runs", *bounds)
        await self._database.on(connection, "move_usage_cursor", str(upto))
        return entries[0]["counted"], runs[0]["counted"]
