"""What the keeper does to the record: opens gates, expires, reaps, makes and drops partitions."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from tollway.domain.gates import Gate, Opening
from tollway.domain.words import ActorKind, RunState
from tollway.record.budget_leases import BudgetLeases
from tollway.record.budgets import Mended, mend_broke, mend_gates
from tollway.record.cancel import Cancellation, Ended, end_cancelled_runs, end_queued_runs
from tollway.record.concurrency import FIRST_KEY, ConcurrencyKeys, Key
from tollway.record.database import Database

DUE_MAX = 500
FORGET_MAX = 5000
FULL_MAX = 1000
NOBODY = Cancellation(frozenset(), frozenset())


@dataclass(frozen=True, slots=True)
class Due:
    """When the keeper is needed next, epoch seconds: by gate when the first of those behind it is due.

    `expires_at` is the next expiry; None: not by what stands there now.
    """

    opens: dict[str, float]
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class Stuck:
    """Whether any line is full, whether any lacks money or an account is exhausted, and whether a run waits in the
    queue that somebody wants cancelled."""

    full_lines: bool
    broke: bool
    cancelled: bool


class Upkeep:
    """The keeper's verbs on the record. All raise DatabaseUnavailable."""

    def __init__(self, database: Database, keeper_id: int) -> None:
        self._database = database
        self._keeper_id = keeper_id
        self._keys = ConcurrencyKeys(database)
        self._budgets = BudgetLeases(database)
        self._due_keys: list[Key] = []
        self._pressing = self._looked_through = FIRST_KEY
        self._full_after = self._broke_after = ""

    async def elected(self, term_s: float) -> bool:
        """Whether this keeper is the one, for the next `term_s`."""
        return await self._database.value("take_election", "keeper", self._keeper_id, term_s) is not None

    async def resign(self) -> None:
        """Let another keeper be elected at once."""
        await self._database.rows("leave_election", "keeper", self._keeper_id)

    async def beats(self) -> list[tuple[int, str, int, float]]:
        """Every process: id, role, beat, and its lease's seconds."""
        return [tuple(row) for row in await self._database.rows("list_beats")]

    async def due(self) -> Due:
        """When each gate opens next, and when the next run expires."""
        at = {row["gate"]: row["at"] for row in await self._database.rows("next_due")}
        expires_at = at.pop(None, None)
        return Due({gate: opens_at for gate, opens_at in at.items() if opens_at is not None}, expires_at)

    async def open_gates(self, openings: Iterable[Opening] = (Opening(Gate.TIME),)) -> list[str]:
        """Let runs through these gates; returns the lanes with news."""
        lanes: dict[str, None] = {}
        for opening in openings:
            rows = await self._database.rows(
                "open_due", opening.most, str(self._keeper_id), opening.gate, opening.early
            )
            lanes.update(dict.fromkeys(row["lane"] for row in rows))
            wanted = [row for row in rows if row["keys"]]
            self._due_keys += [key for row in wanted for key in zip(row["tenants"], row["keys"], strict=True)]
        return list(lanes)

    async def settle_due_keys(self) -> Cancellation:
        """Cancel whoever must go for runs that were due, or those for the others of their key."""
        keys, self._due_keys = self._due_keys, []
        return await self._keys.settle(keys, self._actor) if keys else NOBODY

    async def mend_keys(self) -> Cancellation:
        """Do what an accept or an end left undone because its process died, or is too old to know of keys.

        Every call looks at a page of all keys in turn, and at those for which runs wait that press.
        """
        pressing = await self._keys.pressing(self._pressing)
        self._pressing = pressing[-1] if pressing else FIRST_KEY
        done = await self._keys.settle(pressing, self._actor) if pressing else NOBODY
        last, lanes = await self._keys.mend(self._looked_through)
        self._looked_through = last or FIRST_KEY
        return Cancellation(done.ended, done.asked, lanes=done.lanes | lanes)

    async def expire(self) -> Ended:
        """End what no worker holds and whose time is over."""
        ids = [row["run_id"] for row in await self._database.rows("find_expired", DUE_MAX)]
        return await end_queued_runs(
            self._database, ids, RunState.EXPIRED, self._actor, ("expired", "the run's time passed before it could run")
        )

    async def reap(self, process_id: int) -> list[tuple[UUID, str, int]]:
        """Take back a dead worker's runs: (run, lane, how often it lost its worker)."""
        rows = await self._database.rows("reap_worker", process_id, str(self._keeper_id))
        return [(row["run_id"], row["lane"], row["lost"]) for row in rows if row["run_id"] is not None]

    async def open_full(self) -> list[str]:
        """Open the full lines of capped tenants that have room again; returns the lanes with news.

        Every call looks at a page of them in turn.
        """
        rows = await self._database.rows("find_full", self._full_after, FULL_MAX)
        self._full_after = rows[-1]["tenant"] if len(rows) == FULL_MAX else ""
        tenants = [row["tenant"] for row in rows if row["room"]]
        return [row["opened"] for row in await self._database.rows("turn_capped", tenants)] if tenants else []

    async def mend_broke(self) -> Mended:
        """Bring lines in step with what budgets have left. Every call looks at a page of tenants in turn."""
        mended = await mend_broke(self._database, self._broke_after)
        self._broke_after = mended.after
        return mended

    async def mend_gates(self) -> int:
        """Let go on who came to the gate of a budget just as it was changed or removed; returns how many they are."""
        return await mend_gates(self._database)

    async def stuck(self) -> Stuck:
        """What `open_full` and `end_cancelled` would look at, in one query that reads next to nothing."""
        row = (await self._database.rows("find_stuck"))[0]
        return Stuck(row["full_lines"], row["broke"], row["cancelled"])

    async def end_cancelled(self) -> Ended:
        """End runs that were given back, or lost, after somebody asked to cancel them; their line may be shut."""
        return await end_cancelled_runs(self._database, DUE_MAX)

    async def orphans(self) -> list[int]:
        """Workers without a row that runs still hang on."""
        return [row[0] for row in await self._database.rows("find_orphans")]

    async def forget(self, process_id: int) -> None:
        """Take away the row of a dead process that holds no runs."""
        await self._database.rows("forget_process", process_id)

    async def end_lost_wire_calls(self) -> int:
        """Charge calls over the wire whose process is gone at their worst case; returns how many they were."""
        lost = [row["process"] for row in await self._database.rows("find_lost_wire_calls")]
        return len(await self._database.rows("end_lost_wire_calls", lost)) if lost else 0

    async def close_budgets(self, process_id: int) -> None:
        """Close the budget slices of a process that is gone: what it had reserved counts as spent."""
        await self._budgets.close([process_id])

    async def mend_budgets(self) -> int:
        """Do the same for all that are gone, and true up calls that were under way when a budget was set.

        Returns how many had left slices.
        """
        await self._budgets.refund_openings()
        return await self._budgets.close_lost()

    async def bury_poison(self) -> Ended:
        """End runs that lost even the process of their own."""
        ids = [row["run_id"] for row in await self._database.rows("find_poison")]
        reason = "the run lost its worker three times, the last time in a process of its own"
        return await end_queued_runs(self._database, ids, RunState.DEAD, self._actor, ("poison", reason))

    async def make_partitions(self) -> None:
        """Make sure of the partitions of the coming two weeks."""
        await self._database.rows("make_coming_partitions")

    async def drop_partitions(self, keep_days: dict[str, int]) -> list[str]:
        """Drop what is older than `keep_days` (by noun; 0: for ever). Returns what is gone."""
        today = datetime.now(UTC).date()
        gone = []
        for row in await self._database.rows("list_partition_days"):
            noun, first = row["noun"], _first_day(row["stamp"])
            days = keep_days.get(noun, 0)
            if days == 0 or first is None:
                continue
            last = (
                first
                if noun != "ledger"
                else (first.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
            )
            if (today - last).days > days and await self._database.value("drop_partition", noun, first):
                gone.append(f"{noun}_{row['stamp']}")
        return gone

    async def sweep_quotas(self) -> None:
        """Take away what was counted against quotas of minutes and days that are over."""
        await self._database.rows("sweep_quota_use")

    async def forget_old(self) -> None:
        """Forget idempotency keys past their time, dead letters whose runs are gone, and budgets' periods long over."""
        for name in ("drop_old_idempotency", "drop_old_dead_letters", "drop_old_accounts"):
            while len(await self._database.rows(name, FORGET_MAX)) == FORGET_MAX:
                pass

    @property
    def _actor(self) -> tuple[ActorKind, str]:
        return ActorKind.KEEPER, str(self._keeper_id)


def _first_day(stamp: str) -> date | None:
    try:
        return datetime.strptime(stamp if len(stamp) == 8 else stamp + "01", "%Y%m%d").replace(tzinfo=UTC).date()
    except ValueError:
        return None
