"""The ladder: which rungs a budget stands on, whose they are, and what the pure ones do (P12)."""

from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.budgets import Budget, LadderStep, Period, Rung
from tollway.spend.budgets import SOUND
from tollway.spend.ladder import FEWER_TOKENS_MIN, Account, fewer, lower, pace_of, rungs, standing_of

DOLLAR = 1_000_000_000
NOW = 1_800_000_000.0
NANO = st.integers(0, 10**15)
RUNG = st.sampled_from(list(Rung))
RUNGS = st.frozensets(RUNG)
STEPS = st.lists(st.builds(LadderStep, st.floats(0.1, 1000), RUNG), max_size=5).map(tuple)


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    """Any budget, with or without limits, ladder, force."""
    soft, hard = draw(st.none() | NANO), draw(st.none() | NANO)
    return Budget(
        draw(st.integers(1, 5)),
        "acme",
        draw(st.sampled_from(list(Period))),
        hard_nano=hard,
        soft_nano=soft,
        on_hard=draw(st.sampled_from((Rung.PARK, Rung.REFUSE))),
        ladder=draw(STEPS),
        forced=draw(RUNGS),
        lifted=draw(RUNGS),
    )


ACCOUNTS = st.lists(
    st.builds(Account, budgets(), NANO, st.none() | st.floats(NOW, NOW + 3e6), st.integers(0, 9)), max_size=5
)


def of(*steps: tuple[float, Rung], **more: object) -> Budget:
    """A budget of ten dollars a day with these steps."""
    ladder = tuple(LadderStep(at_pct, rung) for at_pct, rung in steps)
    return Budget(7, "acme", Period.DAY, **{"hard_nano": 10 * DOLLAR, "ladder": ladder, **more})


def test_a_rung_holds_from_its_share_of_the_hard_limit_on() -> None:
    """P12: at 80 % and not a nano-dollar before, and with those below it."""
    budget = of((50, Rung.THROTTLE), (80, Rung.LOWER_TIER), (95, Rung.CACHED_ONLY))
    assert rungs(budget, 8 * DOLLAR - 1) == {Rung.THROTTLE}
    assert rungs(budget, 8 * DOLLAR) == {Rung.THROTTLE, Rung.LOWER_TIER}
    assert rungs(budget, 10 * DOLLAR - 1) == {Rung.THROTTLE, Rung.LOWER_TIER, Rung.CACHED_ONLY}


def test_the_hard_limit_is_a_rung_of_its_own() -> None:
    """Once it is spent the budget parks or refuses, with a ladder or without."""
    assert rungs(of(), 10 * DOLLAR) == {Rung.PARK}
    assert rungs(of(on_hard=Rung.REFUSE), 10 * DOLLAR) == {Rung.REFUSE}
    assert rungs(of(hard_nano=0), 0) == {Rung.PARK}


def test_a_soft_limit_that_is_reached_is_an_alert() -> None:
    """A soft limit does nothing else, also where it is all there is: a ladder is of the hard one."""
    assert rungs(of(soft_nano=5 * DOLLAR), 5 * DOLLAR) == {Rung.ALERT}
    alone = of((80, Rung.LOWER_TIER), hard_nano=None, soft_nano=5 * DOLLAR)
    assert rungs(alone, 5 * DOLLAR - 1) == frozenset()
    assert rungs(alone, 5 * DOLLAR) == {Rung.ALERT}


def test_an_operator_forces_and_lifts() -> None:
    """What is forced holds before its time, what is lifted does not at its own."""
    budget = of((80, Rung.LOWER_TIER), forced=frozenset((Rung.CACHED_ONLY,)), lifted=frozenset((Rung.LOWER_TIER,)))
    assert rungs(budget, 0) == {Rung.CACHED_ONLY}
    assert rungs(budget, 9 * DOLLAR) == {Rung.CACHED_ONLY}


@given(budgets(), NANO, NANO)
def test_who_spends_more_stands_no_higher(budget: Budget, one: int, other: int) -> None:
    """Spending never takes a rung away."""
    assert rungs(budget, min(one, other)) <= rungs(budget, max(one, other))


@given(budgets(), NANO)
def test_lifted_rungs_are_gone_and_forced_ones_there(budget: Budget, spent: int) -> None:
    """Nothing lifted holds; everything forced and not lifted does."""
    found = rungs(budget, spent)
    assert not found & budget.lifted
    assert budget.forced - budget.lifted <= found


@given(ACCOUNTS)
def test_a_standing_is_that_of_all_its_budgets(accounts: list[Account]) -> None:
    """The union of their rungs, each with a budget that stands on it, and one pace for each that throttles."""
    standing = standing_of(accounts, NOW)
    each = [rungs(account.budget, account.spent_nano) for account in accounts]
    assert standing.rungs == frozenset().union(*each) == set(standing.by)
    for rung, exhausted in standing.by.items():
        assert any(
            account.budget.id == exhausted.budget and account.ends == exhausted.until and rung in found
            for account, found in zip(accounts, each, strict=True)
        )
    for pace in standing.paces:
        assert pace.lasts_s >= 1
        assert pace.left_nano >= 0
        assert pace.sharers >= 1
    limited = [account for account in accounts if (account.budget.hard_nano, account.budget.soft_nano) != (None, None)]
    assert len(standing.paces) == sum(Rung.THROTTLE in rungs(one.budget, one.spent_nano) for one in limited)


def test_without_rungs_a_standing_is_sound() -> None:
    """The common case is one object, so that it is known at a glance."""
    assert standing_of([], NOW) is SOUND
    assert standing_of([Account(of((80, Rung.PARK)), 0)], NOW) is SOUND


def test_of_two_budgets_on_a_rung_the_one_that_begins_anew_last_is_named() -> None:
    """Until then the other does not help; one without an end is the last of all."""
    day = Account(of(), 10 * DOLLAR, NOW + 3600)
    month = Account(Budget(8, "acme", Period.MONTH, hard_nano=1), 1, NOW + 9e5)
    for_ever = Account(Budget(9, "acme", Period.TOTAL, hard_nano=1), 1)
    for order in ([day, month], [month, day]):
        assert standing_of(order, NOW).by[Rung.PARK].budget == 8
    for order in ([day, for_ever, month], [for_ever, month, day]):
        assert standing_of(order, NOW).by[Rung.PARK].budget == 9


def test_what_comes_of_a_rung_that_bars() -> None:
    """Park parks and refuse does not, whatever comes at the end; only kept answers: as at the end."""
    for on_hard in (Rung.PARK, Rung.REFUSE):
        budget = of((1, Rung.CACHED_ONLY), (1, Rung.PARK), (1, Rung.REFUSE), on_hard=on_hard)
        by = standing_of([Account(budget, DOLLAR, NOW + 5)], NOW).by
        assert (by[Rung.PARK].parks, by[Rung.REFUSE].parks) == (True, False)
        assert by[Rung.CACHED_ONLY].parks == (on_hard is Rung.PARK)
        assert by[Rung.PARK].until == NOW + 5


def test_the_rest_of_the_money_lasts_for_the_rest_of_the_period() -> None:
    """A total budget is spread over thirty days; one without a limit has no pace."""
    pace = pace_of(Account(of(), 4 * DOLLAR, NOW + 600, 3), NOW)
    assert pace is not None
    assert (pace.budget, pace.left_nano, pace.lasts_s, pace.sharers) == (7, 6 * DOLLAR, 600, 3)
    total = pace_of(Account(Budget(7, "a", Period.TOTAL, hard_nano=9), 2), NOW)
    assert total is not None
    assert (total.left_nano, total.lasts_s) == (7, 30 * 86_400)
    assert pace_of(Account(Budget(7, "a", Period.DAY), 2), NOW) is None


def test_past_a_soft_limit_the_pace_is_that_of_the_limit() -> None:
    """A soft limit alone stops nobody: what is beyond it goes on as if it lasted a whole period."""
    soft = Budget(7, "acme", Period.DAY, soft_nano=DOLLAR)
    pace = pace_of(Account(soft, 3 * DOLLAR, NOW + 60), NOW)
    assert pace is not None
    assert (pace.left_nano, pace.lasts_s) == (DOLLAR, 86_400)
    spent = pace_of(Account(of(), 11 * DOLLAR, NOW + 60), NOW)
    assert spent is not None
    assert spent.left_nano == 0


@given(st.integers(1, 10**6), st.floats(0.01, 0.99))
def test_fewer_tokens_are_never_more(max_tokens: int, share: float) -> None:
    """A share of what was asked for, not below the least that makes sense, and never above what was asked."""
    bound = fewer(max_tokens, share)
    assert bound <= max_tokens
    assert bound >= min(max_tokens, FEWER_TOKENS_MIN)
    if max_tokens * share >= FEWER_TOKENS_MIN:
        assert bound == int(max_tokens * share)


def test_the_tier_below_is_the_next_cheaper() -> None:
    """By price where nothing is said; none below the cheapest, none for what is no tier."""
    costs = {"powerful": 90, "fast": 1, "capable": 20, "fine": 20}
    assert lower("powerful", costs, {}) == "capable"
    assert lower("capable", costs, {}) == "fast"
    assert lower("fine", costs, {}) == "fast"
    assert lower("fast", costs, {}) is None
    assert lower("gpt-4o", costs, {}) is None
    assert lower("powerful", costs, {"powerful": "fast"}) == "fast"


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9)))
def test_going_down_by_price_ends(costs: dict[str, int]) -> None:
    """From each tier the way down is one of falling cost, so it ends."""
    for tier, cost in costs.items():
        below = lower(tier, costs, {})
        assert below is None or costs[below] < cost
