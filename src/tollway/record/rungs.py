"""Rungs of budgets by hand, on record: what an operator forced and lifted, and the runs that it may let go on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import asyncpg

from tollway.domain.budgets import Rung
from tollway.record.budgets import hasten_changed
from tollway.record.database import Database


class ByHand(NamedTuple):
    """The rungs of a budget that an operator forced, and those that he lifted."""

    forced: Iterable[Rung]
    lifted: Iterable[Rung]


@dataclass(frozen=True, slots=True)
class RungsPut:
    """What is forced and lifted from now on, as JSON shows it, and the settings' version that says so.

    `opened` are the lanes where runs may start that could not before.
    """

    document: dict[str, Any]
    version: int
    opened: list[str]


async def read_rungs(database: Database, tenant: str, budget: int) -> dict[str, Any] | None:
    """What is forced and lifted; None where the tenant has no such budget. Raises DatabaseUnavailable."""
    rows = await database.rows("read_rungs", tenant, budget)
    return _document(rows[0]) if rows else None


async def put_rungs(
    database: Database,
    tenant: str,
    budget: int,
    by_hand: ByHand,
    check: Callable[[dict[str, Any]], None] | None = None,
) -> RungsPut | None:
    """Replace what is forced and lifted; None where the tenant has no such budget. Raises DatabaseUnavailable.

    `check` is asked with what stands, as `read_rungs` has it, while nobody else can change it; what it raises ends the
    change. Runs that the budget parked may look again as soon as the keeper comes by.
    """
    async with database.connection() as connection, connection.transaction():
        await database.on(connection, "lock_settings")
        if check is not None:
            for row in await database.on(connection, "read_rungs", tenant, budget):
                check(_document(row))
        names = _names(by_hand.forced), _names(by_hand.lifted)
        rows = await database.on(connection, "put_rungs", tenant, budget, *names)
        if not rows:
            return None
        lanes = await database.on(connection, "turn_broke", [tenant])
    await hasten_changed(database, [budget])
    return RungsPut(_document(rows[0]), rows[0]["version"], [row["opened"] for row in lanes])


def _names(rungs: Iterable[Rung]) -> list[str]:
    """Their names, the mildest first."""
    given = set(rungs)
    return [rung.value for rung in Rung if rung in given]


def _document(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": str(row["id"]), "tenant": row["tenant"], "forced": row["forced"], "lifted": row["lifted"]}
