"""An API process that was taken for dead and is registered anew tells at once which budgets it has read."""

from dataclasses import replace

from ingress_kit import ApiHarness, LocalNews
from runtime_kit import until, until_true
from tollway.domain.budgets import Budget, Period
from tollway.ingress.app import create_app
from tollway.record.budget_leases import BudgetLeases
from tollway.record.budgets import put_budgets
from tollway.record.database import Database
from tollway.record.upkeep import Upkeep
from tollway.spend.guard import BudgetGuard


async def test_a_new_incarnation_keeps_no_account_shut(database: Database) -> None:
    """Nobody calls over its wire, so its guard rests; accounts of budgets set before open to other processes all the
    same."""
    harness = ApiHarness(database, LocalNews(), heartbeat_s=0.05)
    guard = BudgetGuard(BudgetLeases(database), database.clock)
    api = create_app(replace(harness.services, guard=guard))
    harness.sync.on_change(lambda snapshot: guard.changed(snapshot.version))
    await api.start()
    try:
        put = await put_budgets(database, "default", [Budget(0, "default", Period.TOTAL, hard_nano=1000)])
        await harness.sync.changed(put.version)
        await until(lambda: guard._at_rest)
        before = harness.sync.process_id
        await Upkeep(database, 0).forget(before)
        await until(lambda: harness.sync.process_id not in (0, before))
        (row,) = await database.rows("list_budgets")
        leases = BudgetLeases(database)

        async def opens() -> bool:
            found = await leases.open_account(row["id"], 0.0, None)
            return found is not None and found[1]

        assert await until_true(opens, within_s=5.0)
    finally:
        await api.stop()
