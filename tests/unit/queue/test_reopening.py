"""Gates that open: at their time, and to a dependency's runs slowly."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.gates import BATCH_MAX, Opening
from tollway.queue.reopening import FIRST, FORGET_S, LOOK_S, Reopening

CRM = "dependency:crm"
MOMENTS = st.floats(0, 1000)


def looks(reopening: Reopening, gate: str, since: float, seconds: float) -> list[Opening]:
    """What opens in so many seconds for a gate that was due `since`, looked at ten times a second."""
    found: list[Opening] = []
    for step in range(int(seconds * 10) + 1):
        found += reopening.openings({gate: since}, since + step / 10)
    return found


@given(opens=st.dictionaries(st.sampled_from(["time", "capacity:fast", "capacity:m:1", CRM]), MOMENTS), now=MOMENTS)
def test_nothing_opens_before_its_time_and_everything_due_does(opens: dict[str, float], now: float) -> None:
    """Without news each gate opens at its own moment, whole but for a dependency's; the next look is never too late."""
    reopening = Reopening()
    next_at = reopening.next_at(opens, now)
    assert next_at == min(opens.values(), default=None)
    found = reopening.openings(opens, now)
    assert {opening.gate for opening in found} == {gate for gate, at in opens.items() if at <= now}
    for opening in found:
        assert opening == Opening(opening.gate, FIRST if opening.gate == CRM else BATCH_MAX, early=False)


def test_a_dependencys_runs_come_back_by_a_slow_start() -> None:
    """Four go at first, twice as many at each further look, and never more than a batch (P8: no herd)."""
    sizes = [opening.most for opening in looks(Reopening(), CRM, 100.0, 4.0)]
    assert sizes[:5] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST, 16 * FIRST]
    assert max(sizes) == BATCH_MAX
    assert all(later == min(2 * before, BATCH_MAX) for before, later in pairwise(sizes))


def test_news_of_a_success_opens_before_the_time_and_slowly() -> None:
    """A dependency that serves again lets runs go before their moment, in small numbers first."""
    reopening = Reopening()
    assert reopening.openings({CRM: 500.0}, 100.0) == []
    reopening.well("crm", 100.0)
    assert reopening.next_at({CRM: 500.0}, 100.0) == 100.0
    assert reopening.openings({CRM: 500.0}, 100.0) == [Opening(CRM, FIRST, early=True)]
    assert reopening.openings({CRM: 500.0}, 100.0) == []
    assert reopening.openings({CRM: 500.0}, 100.0 + LOOK_S) == [Opening(CRM, 2 * FIRST, early=True)]


def test_news_of_trouble_stops_the_start_and_begins_it_anew() -> None:
    """Nobody goes before the breaker is worth asking again, though he is due; then few go, and by their time alone."""
    reopening = Reopening()
    looks(reopening, CRM, 100.0, 2.0)
    reopening.shut("crm", 130.0)
    assert reopening.openings({CRM: 100.0}, 110.0) == []
    assert reopening.next_at({CRM: 100.0}, 110.0) == 130.0
    assert reopening.openings({CRM: 100.0}, 130.0) == [Opening(CRM, FIRST)]
    assert reopening.openings({CRM: 200.0}, 131.0) == []


def test_who_waited_for_nothing_lately_starts_slowly_again() -> None:
    """A gate with nobody behind it is forgotten after a while; what comes next is a start of its own."""
    reopening = Reopening()
    looks(reopening, CRM, 100.0, 4.0)
    assert reopening.openings({}, 104.0 + FORGET_S + LOOK_S) == []
    assert reopening.openings({CRM: 100.0}, 200.0) == [Opening(CRM, FIRST)]


@given(
    st.lists(st.tuples(st.sampled_from(["look", "shut", "well"]), st.floats(0.01, 3.0), st.floats(0, 20)), max_size=60)
)
def test_the_next_look_is_when_something_opens(steps: list[tuple[str, float, float]]) -> None:
    """Whatever the news, the keeper's alarm is right: nothing opens before it, and something opens at it."""
    reopening, now = Reopening(), 0.0
    for what, pause_s, ahead_s in steps:
        now += pause_s
        if what == "shut":
            reopening.shut("crm", now + ahead_s)
        elif what == "well":
            reopening.well("crm", now)
        opens = {CRM: now + ahead_s - 10}
        next_at = reopening.next_at(opens, now)
        assert next_at is not None
        assert bool(reopening.openings(opens, now)) == (next_at <= now)
