"""Which alerts a budget's period gives cause for, without I/O."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.alerts import AlertKind
from tollway.record.spending import PeriodSpend
from tollway.spend.burn import Burn
from tollway.spend.thresholds import budget_alerts

PERCENTS = (50.0, 80.0, 100.0)
PERIOD = PeriodSpend(7, 3, "acme", "day", 1000, None, 86_400.0, 0)


def keys(period: PeriodSpend, open_keys: set[str] | None = None, burn: Burn | None = None) -> list[str]:
    return [alert.key for alert in budget_alerts(period, burn, PERCENTS, open_keys or set())]


def test_each_threshold_is_told_at_its_level() -> None:
    """Below 50 % nothing is told, then 50 %, then 80 %; of several passed at once the highest."""
    assert keys(replace(PERIOD, spent_nano=499)) == []
    assert keys(replace(PERIOD, spent_nano=500)) == ["budget_soft/7/50"]
    assert keys(replace(PERIOD, spent_nano=850)) == ["budget_soft/7/80"]
    assert keys(replace(PERIOD, spent_nano=850), {"budget_soft/7/50"}) == ["budget_soft/7/50", "budget_soft/7/80"]


def test_a_lower_threshold_is_not_told_after_a_higher_one() -> None:
    """With 80 % told, money that comes back does not make 50 % news; far below, 80 % is over."""
    assert keys(replace(PERIOD, spent_nano=760), {"budget_soft/7/80"}) == ["budget_soft/7/80"]
    assert keys(replace(PERIOD, spent_nano=700), {"budget_soft/7/80"}) == ["budget_soft/7/50"]


def test_the_soft_limit_and_the_end_of_the_money_are_told() -> None:
    """The soft limit is told with or without a hard one; a hard limit that nothing fits under any more is exhausted."""
    assert keys(replace(PERIOD, hard_nano=None, soft_nano=100, spent_nano=100)) == ["budget_soft/7/soft"]
    assert keys(replace(PERIOD, spent_nano=995, exhausted="all")) == ["budget_soft/7/100", "budget_exhausted/7"]
    (alert, gone) = budget_alerts(replace(PERIOD, spent_nano=1000), None, PERCENTS, set())
    assert (alert.kind, alert.tenant, alert.subject) == (AlertKind.BUDGET_SOFT, "acme", "3")
    assert alert.data == {
        "budget": "3",
        "period": "day",
        "spent_usd": 0.000001,
        "spent_nano": 1000,
        "hard_usd": 0.000001,
        "hard_nano": 1000,
        "ends_at": "1970-01-02T00:00:00.000Z",
        "at_pct": 100.0,
    }
    assert gone.kind is AlertKind.BUDGET_EXHAUSTED


@given(
    st.lists(st.tuples(st.integers(0, 400), st.floats(0, 0.09), st.booleans()), max_size=20), st.integers(1000, 3000)
)
def test_each_key_is_told_once_a_period(spends: list[tuple[int, float, bool]], hard: int) -> None:
    """Whatever looks fall on, no alert ends and comes again in a period, though a little money may come back (P12)."""
    spent, told, open_keys = 0, list[str](), set[str]()
    for more, back, is_back in [(0, 0.0, False), *spends]:
        spent += more
        now = (
            round(spent * (1 - back)) if is_back else spent
        )  # what comes back is spent again before the next comes back
        period = replace(PERIOD, hard_nano=hard, soft_nano=hard // 3, spent_nano=now)
        found = set(keys(period, open_keys))
        assert open_keys <= found
        told += sorted(found - open_keys)
        open_keys = found
    assert len(told) == len(set(told))


def test_the_interactive_lanes_part_is_told_of_apart() -> None:
    """Where only the interactive lane has money left, that is told; then that it has none either, once each."""
    others, gone = "budget_exhausted/7/others", "budget_exhausted/7"
    period = replace(PERIOD, spent_nano=700, exhausted="others")
    assert keys(period) == ["budget_soft/7/50", others]
    assert keys(replace(period, spent_nano=990, exhausted="all"), {others}) == ["budget_soft/7/100", gone, others]
    assert keys(replace(period, spent_nano=990, exhausted="all")) == ["budget_soft/7/100", gone]
    assert keys(replace(period, exhausted=None), {others}) == ["budget_soft/7/50"]


def test_a_raised_limit_ends_what_no_longer_holds() -> None:
    """With twice the limit, 80 % of the old one is no alert any more."""
    assert keys(replace(PERIOD, spent_nano=800, hard_nano=2000), {"budget_soft/7/80", "budget_exhausted/7"}) == []


def burn_of(rate: float, spent: int, age_s: float = 3600.0) -> Burn:
    return Burn(36_000.0 - age_s, 0, 36_000.0, spent, rate)


def test_money_that_will_not_last_is_projected() -> None:
    """At a rate that ends the money before the period it is told, with rate and time; at half of it, it is not."""
    period = replace(PERIOD, hard_nano=10**12, spent_nano=200 * 10**9)
    fast, slow = burn_of(2e7, 200 * 10**9), burn_of(1e6, 200 * 10**9, 36_000.0)
    (alert,) = budget_alerts(period, fast, PERCENTS, set())
    assert alert.kind is AlertKind.BUDGET_PROJECTED
    assert "1970-01-01T10:00:00.000Z" < str(alert.data["exhausts_at"]) < "1970-01-02T00:00:00.000Z"
    assert keys(period, burn=slow) == []


def test_a_projection_needs_evidence() -> None:
    """In the first quarter of an hour, or while a twentieth of the money is not spent, nothing is projected."""
    young = burn_of(1e9, 200 * 10**9, 600.0)
    assert keys(replace(PERIOD, hard_nano=10**12, spent_nano=200 * 10**9), burn=young) == []
    assert keys(replace(PERIOD, hard_nano=10**12, spent_nano=10**9), burn=burn_of(1e9, 10**9)) == []


def test_a_projection_holds_until_it_is_clearly_wrong() -> None:
    """Told, it stays while nine tenths would be spent, and through the end of the money; then it is over."""
    told = {"budget_projected/7"}
    period = replace(PERIOD, hard_nano=10**12, spent_nano=400 * 10**9)
    assert keys(period, told, Burn(0.0, 0, 43_200.0, 475 * 10**9, 11e6)) == ["budget_projected/7"]
    assert keys(period, told, Burn(0.0, 0, 43_200.0, 400 * 10**9, 1e6)) == []
    gone = replace(period, spent_nano=10**12, exhausted="all")
    assert "budget_projected/7" in keys(gone, told, burn_of(1e6, 10**12))
    assert "budget_projected/7" not in keys(gone, set(), burn_of(1e6, 10**12))
