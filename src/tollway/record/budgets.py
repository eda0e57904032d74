"""Budgets on record, in the memory of processes that serve calls, and what of them is used.

A budget is what it covers, its period and its zone: put again with other limits, it is the same one, with its account.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from tollway.domain.budgets import Budget, LadderStep, Period, Rung
from tollway.domain.news import News
from tollway.record.database import Database
from tollway.record.settings_board import SettingsBoard

BudgetsOf = Mapping[str, tuple[Budget, ...]]
"""Budgets by tenant, in the order they were made; a tenant without any is not in it."""

_RUNGS = frozenset(Rung)


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """The present period of a budget: its bounds, what is spent, what calls under way have reserved; nano-dollars."""

    begins: datetime
    ends: datetime | None
    spent_nano: int
    reserved_nano: int
    exhausted_at: datetime | None


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


async def put_budgets(database: Database, tenant: str, budgets: Sequence[Budget]) -> int:
    """Replace the budgets of a tenant, which must be there; returns the settings' version. Raises DatabaseUnavailable.

    No two may be the same: cover the same, in the same period and zone. Of each given one the `id`, `forced` and
    `lifted` are not looked at: one that was there keeps its own.
    """
    given = json.dumps([_columns(budget) for budget in budgets])
    async with database.connection() as connection, connection.transaction():
        await database.on(connection, "lock_settings")
        await database.on(connection, "lock_budgets", tenant)
        return int((await database.on(connection, "put_budgets", tenant, given))[0]["version"])


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
