"""Budgets on record, in the memory of processes that serve calls, and what of them is used.

A budget is what it covers, its period and its zone: put again with other limits, it is the same one, with its account.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from tollway.domain.budgets import Budget, LadderStep, Period, Rung
from tollway.domain.errors import DatabaseUnavailable
from tollway.domain.gates import Gate
from tollway.domain.news import News
from tollway.record.database import Database
from tollway.record.settings_board import SettingsBoard

BudgetsOf = Mapping[str, tuple[Budget, ...]]
"""Budgets by tenant, in the order they were made; a tenant without any is not in it."""

TENANTS_MAX = 1000
HASTEN_MAX = 5000
_RUNGS = frozenset(Rung)


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """The present period of a budget: its bounds, what is spent, what calls under way have reserved; nano-dollars.

    `begins` is None where nobody can say when that is.
    """

    begins: datetime | None
    ends: datetime | None
    spent_nano: int
    reserved_nano: int
    exhausted_at: datetime | None


@dataclass(frozen=True, slots=True)
class BudgetsPut:
    """The settings' version that a change made, and the lanes where runs may start that could not before."""

    version: int
    opened: list[str]


@dataclass(frozen=True, slots=True)
class Mended:
    """The lanes of lines that were opened, the tenant to go on `after`, and whether any budget `opened`."""

    lanes: list[str]
    after: str
    opened: bool


def budget_record(row: asyncpg.Record) -> Budget:
    """A row of `list_budgets` as a budget; rungs of a later version are left out."""
    return Budget(
        id=row["id"],
        tenant=row["tenant"],
        period=Period(row["period"]),
        timezone=row["timezone"],
        hard_nano=row["hard_nano"],
        soft_nano=row["soft_nano"],
        agent=row["agent"],
        lane=row["lane"],
        task_type=row["task_type"],
        key=row["key_id"],
        on_hard=Rung(row["on_hard"]),
        ladder=tuple(
            LadderStep(step["at_pct"], Rung(step["rung"]))
            for step in json.loads(row["ladder"])
            if step["rung"] in _RUNGS
        ),
        interactive_share=row["interactive_share"],
        forced=_rungs(row["forced"]),
        lifted=_rungs(row["lifted"]),
    )


def budgets_by_tenant(rows: Iterable[asyncpg.Record]) -> BudgetsOf:
    """The rows of `list_budgets` as budgets."""
    found: dict[str, list[Budget]] = {}
    for row in rows:
        found.setdefault(row["tenant"], []).append(budget_record(row))
    return {tenant: tuple(budgets) for tenant, budgets in found.items()}


async def put_budgets(
    database: Database,
    tenant: str,
    budgets: Sequence[Budget],
    check: Callable[[tuple[Budget, ...]], None] | None = None,
) -> BudgetsPut:
    """Replace the budgets of a tenant, which must be there. Raises DatabaseUnavailable.

    `check` is asked with those that stand, while nobody else can change them; what it raises ends the change.

    No two may be the same: cover the same, in the same period and zone. Of each given one the `id`, `forced` and
    `lifted` are not looked at: one that was there keeps its own. What waited for money that may be there now goes on.
    """
    given = json.dumps([_columns(budget) for budget in budgets])
    async with database.connection() as connection, connection.transaction():
        await database.on(connection, "lock_settings")
        if check is not None:
            rows = await database.on(connection, "list_tenant_budgets", tenant)
            check(tuple(budget_record(row) for row in rows))
        await database.on(connection, "lock_budgets", tenant)
        put = (await database.on(connection, "put_budgets", tenant, given))[0]
        await database.on(connection, "review_exhausted", [tenant], True)
        lanes = await database.on(connection, "turn_broke", [tenant])
    await hasten_changed(database, put["eased"])
    return BudgetsPut(put["version"], [row["opened"] for row in lanes])


async def exhausted(database: Database, account: int, need_nano: int) -> bool:
    """Tell that an account could not meet a need for good. Raises DatabaseUnavailable.

    True where it is exhausted since now: the lines it covers are shut, and news of "budget" is due. False where it was
    so already, or has enough left for smaller needs, so that only who asked must wait.
    """
    return bool(await database.value("mark_exhausted", account, need_nano))


async def mend_broke(database: Database, after: str = "") -> Mended:
    """Bring lines in step with what budgets have left, for a page of the tenants `after` one in their order.

    Needed where a period is over, money came in, or a line was made while its budget turned. Raises
    DatabaseUnavailable.
    """
    tenants = [row["tenant"] for row in await database.rows("find_broke", after, TENANTS_MAX)]
    more = tenants[-1] if len(tenants) == TENANTS_MAX else ""
    if not tenants:
        return Mended([], more, opened=False)
    async with database.connection() as connection, connection.transaction():
        well = await database.on(connection, "review_exhausted", tenants, False)
        lanes = await database.on(connection, "turn_broke", tenants)
        await database.on(connection, "hasten_gates", [budget_gate(row["budget"]) for row in well], None)
    return Mended([row["opened"] for row in lanes], more, opened=bool(well))


async def mend_gates(database: Database, within_s: float = 60.0) -> int:
    """Let go on who came to the gate of a budget just as it was changed or removed; returns how many they are.

    Raises DatabaseUnavailable.
    """
    return await _hasten(database, [row["gate"] for row in await database.rows("find_stale_gates", within_s)])


async def hasten_changed(database: Database, budgets: Iterable[int]) -> None:
    """Let go on who waits for budgets that were just changed; after the change, for it may be many who do.

    Leases wait for a change. Whoever is left, for the database is away, the keeper finds by `mend_gates`.
    """
    with suppress(DatabaseUnavailable):
        await _hasten(database, [budget_gate(budget) for budget in budgets])


async def _hasten(database: Database, gates: Sequence[str]) -> int:
    hastened = 0
    while gates:
        some = int(await database.value("hasten_gates", gates, HASTEN_MAX))
        hastened += some
        if some < HASTEN_MAX:
            break
    return hastened


def budget_gate(budget: int) -> str:
    """The gate before a budget, as `queue.gate` has it."""
    return Gate.BUDGET.before(str(budget))


async def read_budget_use(database: Database, tenant: str) -> dict[int, BudgetUse]:
    """What is used of a tenant's budgets in their present period, by their id; of others nobody has spent anything.

    Raises DatabaseUnavailable.
    """
    return {
        row["budget"]: BudgetUse(
            row["begins"], row["ends"], row["spent_nano"], row["reserved_nano"], row["exhausted_at"]
        )
        for row in await database.rows("read_budget_use", tenant)
    }


class BudgetBoard(SettingsBoard[BudgetsOf]):
    """The budgets in force, in memory."""

    def __init__(self, database: Database, news: News) -> None:
        super().__init__(database, news, "list_budgets", budgets_by_tenant)


def _rungs(names: Iterable[str]) -> frozenset[Rung]:
    return frozenset(Rung(name) for name in names if name in _RUNGS)


def _columns(budget: Budget) -> dict[str, Any]:
    return {
        "period": budget.period,
        "timezone": budget.timezone,
        "agent": budget.agent,
        "lane": budget.lane,
        "task_type": budget.task_type,
        "key_id": budget.key,
        "hard_nano": budget.hard_nano,
        "soft_nano": budget.soft_nano,
        "on_hard": budget.on_hard,
        "ladder": [{"at_pct": step.at_pct, "rung": step.rung} for step in budget.ladder],
        "interactive_share": budget.interactive_share,
    }
