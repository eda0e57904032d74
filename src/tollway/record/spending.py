"""What was spent lately, for whoever watches over it: by tenant from the ledger, and by the periods of budgets.

The ledger is added up by PostgreSQL's snapshots, each visible entry once, whatever the order of commits.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tollway.domain.ids import floor_at
from tollway.record.database import Connection, Database

CALL_AGE_S_MAX = 2 * 86_400.0
"""Entries of calls begun before that are no news of what is spent now."""

TRANSACTIONS_MAX = 50_000
"""So many of all that wrote anything are looked through at once, some minutes' worth under load."""

FORGET_MAX = 5000
PAST_DAYS = 15


@dataclass(frozen=True, slots=True)
class Excess:
    """What calls of a route cost beyond their reservations, by the hour (epoch seconds) in which they ended."""

    route: str
    hour: float
    calls: int
    nano: int


@dataclass(frozen=True, slots=True)
class Lately:
    """What a tenant spent in a shorter and a longer time up to now, nano-dollars."""

    short_nano: int
    long_nano: int


_BURN = ("since", "since_nano", "burn_at", "burn_nano", "faded")
BurnRow = tuple[float, int, float, int, float]
"""A `spend.burn.Burn` as it is kept: since, spent then, at, spent then, the faded rate."""


@dataclass(frozen=True, slots=True)
class PeriodSpend:
    """The present period of a budget: nano-dollars, epoch seconds; `ends_at` None: it has no end.

    `exhausted` says for whom nothing is left: `all`, or `others` than the interactive lane; None: there is.
    """

    account: int
    budget: int
    tenant: str
    period: str
    hard_nano: int | None
    soft_nano: int | None
    ends_at: float | None
    spent_nano: int
    exhausted: str | None = None
    burn: BurnRow | None = None


class SpendRecord:
    """The keeper's verbs on what was spent. All raise DatabaseUnavailable; times are epoch seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def fold(self, connection: Connection, now: float) -> list[Excess]:
        """Add up what is new in the ledger; the transaction's end makes it count. Who comes second waits for it."""
        cursor = (await self._database.on(connection, "lock_spend_cursor"))[0]
        if cursor["elsewhere"]:
            await self._database.on(connection, "restart_spend_cursor")
            return []
        oldest = floor_at(now - CALL_AGE_S_MAX)
        rows = await self._database.on(connection, "fold_spend", cursor["seen"], oldest, TRANSACTIONS_MAX)
        return [Excess(row["route"] or "", row["hour"].timestamp(), row["calls"], row["nano"]) for row in rows]

    async def lately(
        self, connection: Connection, windows: tuple[float, float], least_nano: int, tenants: Collection[str]
    ) -> dict[str, Lately]:
        """What was spent since two times, the later one first, of tenants that spent much, or are named."""
        later, earlier = (_moment(at) for at in windows)
        rows = await self._database.on(connection, "read_spend_lately", later, earlier, least_nano, list(tenants))
        return {row["tenant"]: Lately(row["short"], row["long"]) for row in rows}

    async def past(self, connection: Connection, tenants: Collection[str], hour: int) -> dict[str, dict[int, int]]:
        """What tenants spent in whole hours before `hour`, by the hour's number since the epoch; nano-dollars."""
        begins, ends = _moment((hour - 24 * PAST_DAYS) * 3600), _moment(hour * 3600)
        found: dict[str, dict[int, int]] = {tenant: {} for tenant in tenants}
        for row in await self._database.on(connection, "read_spend_past", list(tenants), begins, ends):
            found[row["tenant"]][row["hour"]] = row["nano"]
        return found

    async def close_hours(self, connection: Connection, before: float) -> None:
        """Add up the hours that ended before a time, which is a whole hour."""
        await self._database.on(connection, "close_spend_hours", _moment(before))

    async def forget_old(self, now: float) -> None:
        """Forget what no judgement needs any more."""
        before = _moment(now - PAST_DAYS * 86_400)
        while len(await self._database.rows("drop_old_spend_hours", before, FORGET_MAX)) == FORGET_MAX:
            pass
        await self._database.rows("drop_old_burns")

    async def periods(self, connection: Connection) -> list[PeriodSpend]:
        """The present period of every budget, with its burn as it was last kept."""
        found = []
        for row in await self._database.on(connection, "read_spending"):
            values = dict(row)
            burn = tuple(values.pop(name) for name in _BURN)
            found.append(PeriodSpend(**values, burn=None if burn[0] is None else burn))
        return found

    async def keep_burns(self, connection: Connection, burns: Mapping[int, BurnRow]) -> None:
        """Keep how fast the money goes, by account."""
        rows: Sequence[BurnRow] = list(burns.values())
        columns = [[row[column] for row in rows] for column in range(5)]
        await self._database.on(connection, "note_burns", list(burns), *columns)


async def read_burns(database: Database, tenant: str) -> dict[int, BurnRow]:
    """How fast the money of a tenant's present periods goes, by budget: `Burn(*row)`. Raises DatabaseUnavailable."""
    rows = await database.rows("read_burns", tenant)
    return {
        row["budget"]: (row["since"], row["since_nano"], row["at"], row["spent_nano"], row["faded"]) for row in rows
    }


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
