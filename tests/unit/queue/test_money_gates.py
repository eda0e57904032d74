"""Who is refused and who waits for want of money."""

from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.budgets import AccountState, Budget, Exhausted, LadderStep, Period, Rung
from tollway.domain.llm import Caller
from tollway.queue.money import Stands, parks, refused, spent

ACME = Caller("acme", "standard", "triage", task_type="legal", key_id="key-1")
PARKING = Budget(1, "acme", Period.DAY, hard_nano=100)
REFUSING = Budget(2, "acme", Period.DAY, hard_nano=100, on_hard=Rung.REFUSE)
SPENT = AccountState(2_000.0, 100, "all")


def by(accounts: dict[int, AccountState]) -> Stands:
    """How budgets stand, by their id; others have spent nothing."""
    return lambda budget: accounts.get(budget.id, AccountState(None, 0))


def test_an_exhausted_budget_does_what_it_says() -> None:
    """One that refuses refuses, one that parks keeps waiting; a call that waits for nothing fails by either."""
    accounts = {1: SPENT, 2: SPENT}
    assert refused([PARKING], by(accounts), ACME) is None
    assert parks([PARKING], by(accounts), ACME) == Exhausted(1, 2_000.0, parks=True)
    assert refused([REFUSING], by(accounts), ACME) == Exhausted(2, 2_000.0, parks=False)
    assert parks([REFUSING], by(accounts), ACME) is None
    assert spent([PARKING], by(accounts), ACME) is not None
    assert spent([REFUSING], by(accounts), ACME) is not None
    assert spent([PARKING, REFUSING], by({}), ACME) is None


def test_a_run_that_cannot_wait_so_long_is_refused() -> None:
    """What must start before the period turns is refused at once, and told when; what may wait longer is taken."""
    accounts = {1: SPENT}
    assert refused([PARKING], by(accounts), ACME, 1_999.0) == Exhausted(1, 2_000.0, parks=True)
    assert refused([PARKING], by(accounts), ACME, 2_000.0) is None
    assert refused([PARKING], by({1: AccountState(None, 100, "all")}), ACME, 9e9) == Exhausted(1, None, parks=True)


def test_the_budget_that_begins_anew_last_decides() -> None:
    """Before that the others do not help; one that never does goes before all."""
    other = Budget(3, "acme", Period.MONTH, hard_nano=1)
    ever = Budget(4, "acme", Period.TOTAL, hard_nano=1)
    accounts = {1: SPENT, 3: AccountState(5_000.0, 1, "all"), 4: AccountState(None, 1, "all")}
    assert parks([PARKING, other], by(accounts), ACME) == Exhausted(3, 5_000.0, parks=True)
    assert parks([other, PARKING], by(accounts), ACME) == Exhausted(3, 5_000.0, parks=True)
    assert parks([other, ever, PARKING], by(accounts), ACME) == Exhausted(4, None, parks=True)


def test_the_interactive_lane_goes_on_with_its_share() -> None:
    """Where nothing is left to the others it still has something."""
    accounts = {1: AccountState(2_000.0, 70, "others")}
    assert parks([PARKING], by(accounts), ACME) is not None
    assert parks([PARKING], by(accounts), Caller("acme", "interactive", "triage")) is None


def test_rungs_close_the_door_before_the_money_ends() -> None:
    """A ladder's `refuse` and `park` hold from their share on; forced ones at once, lifted ones not at all."""
    ladder = (LadderStep(50.0, Rung.REFUSE), LadderStep(40.0, Rung.PARK))
    stepped = Budget(1, "acme", Period.DAY, hard_nano=100, ladder=ladder)
    for nano, closes in ((39, (False, False)), (40, (True, False)), (50, (True, True))):
        accounts = {1: AccountState(2_000.0, nano)}
        found = parks([stepped], by(accounts), ACME), refused([stepped], by(accounts), ACME)
        assert tuple(one is not None for one in found) == closes
    lifted = Budget(1, "acme", Period.DAY, hard_nano=100, ladder=ladder, lifted=frozenset((Rung.REFUSE,)))
    assert refused([lifted], by({1: AccountState(2_000.0, 50)}), ACME) is None
    forced = Budget(1, "acme", Period.DAY, hard_nano=100, forced=frozenset((Rung.REFUSE,)))
    assert refused([forced], by({}), ACME) == Exhausted(1, None, parks=True)
    held = Budget(1, "acme", Period.DAY, hard_nano=100, on_hard=Rung.REFUSE, lifted=frozenset((Rung.REFUSE,)))
    assert refused([held], by({1: SPENT}), ACME) is not None  # the hard limit holds whatever is lifted


NAMES = st.sampled_from(["a", "b"])
BUDGETS = st.lists(
    st.builds(
        Budget,
        id=st.integers(1, 6),
        tenant=NAMES,
        period=st.sampled_from(Period),
        hard_nano=st.none() | st.integers(0, 10),
        agent=st.none() | NAMES,
        lane=st.none() | NAMES,
        task_type=st.none() | NAMES,
        key=st.none() | NAMES,
        on_hard=st.sampled_from([Rung.PARK, Rung.REFUSE]),
        ladder=st.lists(st.builds(LadderStep, st.floats(1, 200), st.sampled_from(Rung)), max_size=2).map(tuple),
        forced=st.frozensets(st.sampled_from(Rung), max_size=2),
        lifted=st.frozensets(st.sampled_from(Rung), max_size=2),
    ),
    max_size=5,
    unique_by=lambda budget: budget.id,
)
ACCOUNTS = st.dictionaries(
    st.integers(1, 6),
    st.builds(
        AccountState, st.none() | st.floats(0, 100), st.integers(0, 20), st.sampled_from([None, "all", "others"])
    ),
)
CALLERS = st.builds(Caller, NAMES, NAMES, NAMES, task_type=NAMES, key_id=NAMES)


@given(BUDGETS, ACCOUNTS, CALLERS, st.none() | st.floats(0, 200))
def test_only_budgets_that_cover_the_caller_have_a_say(
    budgets: list[Budget], accounts: dict[int, AccountState], caller: Caller, start_by: float | None
) -> None:
    """Whoever closes covers the caller, and what each budget allows for itself all of them allow."""
    found = [
        refused(budgets, by(accounts), caller, start_by),
        parks(budgets, by(accounts), caller),
        spent(budgets, by(accounts), caller),
    ]
    by_id = {budget.id: budget for budget in budgets}
    for one in found:
        if one is not None:
            assert by_id[one.budget].covers(caller)
            assert one.until == by(accounts)(by_id[one.budget]).ends
    if start_by is None and found[0] is not None:
        assert found[2] is not None
    alone = [refused([budget], by(accounts), caller, start_by) for budget in budgets]
    assert (found[0] is None) == all(one is None for one in alone)
