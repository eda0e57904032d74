"""The record shuts lines by the same rule by which the door says why their runs wait."""

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tollway.domain.budgets import AccountState, Budget, LadderStep, Period, Rung
from tollway.domain.llm import Caller
from tollway.queue.money import parks
from tollway.record.budgets import mend_broke, put_budgets
from tollway.record.database import Database
from tollway.record.settings_sync import read_settings

AGENTS, LANES = ("echo", "triage"), ("batch", "interactive", "standard")
BUDGETS = st.lists(
    st.builds(
        Budget,
        id=st.just(0),
        tenant=st.just("default"),
        period=st.sampled_from(Period),
        hard_nano=st.none() | st.integers(1, 100),
        agent=st.none() | st.sampled_from(AGENTS),
        lane=st.none() | st.sampled_from(LANES),
        task_type=st.none() | st.just("legal"),
        on_hard=st.sampled_from([Rung.PARK, Rung.REFUSE]),
        ladder=st.lists(
            st.builds(LadderStep, st.sampled_from([30.0, 60.0, 99.5]), st.sampled_from([Rung.PARK, Rung.ALERT])),
            max_size=2,
        ).map(tuple),
    ),
    max_size=4,
    unique_by=lambda budget: (budget.period, budget.agent, budget.lane, budget.task_type),
)
RUNGS = st.frozensets(st.sampled_from([Rung.PARK, Rung.REFUSE, Rung.ALERT]), max_size=2)
STANDS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 120), st.sampled_from([None, "all", "others"]), RUNGS, RUNGS),
    min_size=4,
    max_size=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BUDGETS, STANDS)
async def test_a_line_is_shut_exactly_while_its_runs_wait_for_money(
    database: Database, admin: asyncpg.Connection, budgets: list[Budget], stands: list[tuple[object, ...]]
) -> None:
    """P8: whatever budgets there are and however they stand, record and door agree on every line of the tenant."""
    await admin.execute("delete from flow")
    await admin.execute(
        "insert into flow (lane, class, tenant)"
        " select l, a, 'default' from unnest($1::text[]) as l, unnest($2::text[]) as a",
        LANES,
        AGENTS,
    )
    await put_budgets(database, "default", [])
    await put_budgets(database, "default", budgets)
    made = (await read_settings(database)).budgets.get("default", ())
    accounts: dict[int, AccountState] = {}
    for budget, (live, spent, lanes, forced, lifted) in zip(made, stands, strict=False):
        assert isinstance(spent, int)
        told = None if budget.hard_nano is None else lanes
        await admin.execute(
            "update budget set forced = $2, lifted = $3 where id = $1",
            budget.id,
            sorted(forced),
            sorted(lifted),  # type: ignore[call-overload]
        )
        await admin.execute(
            "insert into budget_account"
            " (budget, begins, ends, spent_nano, exhausted_at, exhausted_lanes, exhausted_below)"
            " select $1, now() - interval '2 days', case when $2 then null else now() - interval '1 day' end, $3,"
            " case when $4::text is not null then now() end, $4, case when $4::text is not null then 1000000 end",
            budget.id,
            live,
            spent,
            told,
        )
        if live:
            accounts[budget.id] = AccountState(None, spent, told)  # type: ignore[arg-type]
    await mend_broke(database)
    made = (await read_settings(database)).budgets.get("default", ())
    found = {(row["lane"], row["class"]): row["state"] for row in await admin.fetch("select * from flow")}
    for (lane, agent), state in found.items():
        waits = parks(
            made, lambda budget: accounts.get(budget.id, AccountState(None, 0)), Caller("default", lane, agent)
        )
        assert (state == 4) == (waits is not None), (lane, agent, made, accounts)
