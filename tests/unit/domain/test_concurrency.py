"""Who gets a free concurrency key, and who must go for another run of its key."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.concurrency import (
    CANCEL_NEWEST,
    CANCEL_RUNNING,
    POLICIES,
    QUEUE,
    Rival,
    Waiter,
    heir,
    ousted,
    superseded,
)

policies = st.sampled_from(POLICIES)
numbers = st.lists(st.integers(1, 1 << 100), unique=True, max_size=8)


@st.composite
def lines(draw: st.DrawFn) -> list[Waiter]:
    """Runs that wait for one key."""
    return [Waiter(UUID(int=n), draw(st.integers(0, 5)), draw(policies)) for n in draw(numbers)]


@st.composite
def rivalries(draw: st.DrawFn) -> list[Rival]:
    """Live runs of one key, of which at most one holds it."""
    runs = draw(numbers)
    held = draw(st.integers(-1, len(runs) - 1))
    return [Rival(UUID(int=n), draw(policies), at == held, draw(st.booleans())) for at, n in enumerate(runs)]


@given(lines())
def test_a_key_goes_to_the_newest_that_takes_over_else_in_turn(waiting: list[Waiter]) -> None:
    """Somebody gets a free key whenever somebody waits: the newest takeover first, else who is first in line."""
    found = heir(waiting)
    assert (found is None) == (waiting == [])
    if found is None:
        return
    pressing = {run.id for run in waiting if run.policy == CANCEL_RUNNING}
    if pressing:
        assert found.id == max(pressing)
    else:
        assert all((found.place, found.id) <= (run.place, run.id) for run in waiting)


@given(rivalries())
def test_whoever_goes_goes_for_a_run_that_stays(rivals: list[Rival]) -> None:
    """Nobody is cancelled twice, or for itself, or for a run that goes as well; who waits for its turn never goes."""
    out = ousted(rivals)
    gone = {one.id for one in out}
    assert len(gone) == len(out)
    policy = {run.id: run.policy for run in rivals}
    holds = {run.id for run in rivals if run.holds}
    for one in out:
        assert one.id != one.by
        assert one.id in holds or policy[one.id] != QUEUE
        assert one.by not in gone or policy[one.id] == CANCEL_NEWEST
        assert str(one.by) in one.message


@given(rivalries())
def test_the_newest_takeover_wins_and_deciding_again_changes_nothing(rivals: list[Rival]) -> None:
    """Of the runs that take over one stays, the newest; the holder goes for it; once done nothing is left to do."""
    out = {one.id for one in ousted(rivals)}
    newest = max((run.id for run in rivals if run.policy == CANCEL_RUNNING), default=None)
    left = [run for run in rivals if run.id not in out]
    if newest is not None:
        assert newest not in out
        assert all(run.asked or run.id == newest for run in left if run.holds or run.policy == CANCEL_RUNNING)
    if any(run.holds for run in rivals):
        assert all(run.holds for run in left if run.policy == CANCEL_NEWEST)
    later = [Rival(run.id, run.policy, run.holds, run.asked or run.id in out) for run in rivals]
    settled = [run for run in later if run.holds or run.id not in out]
    assert ousted(settled) == []


def test_a_holder_that_waits_its_turn_in_no_dispute_stays() -> None:
    """A holder is cancelled for a takeover only, never for those who wait for their turn."""
    one, two = UUID(int=1), UUID(int=2)
    assert ousted([Rival(one, QUEUE, True), Rival(two, QUEUE, False)]) == []
    (gone,) = ousted([Rival(one, QUEUE, True), Rival(two, CANCEL_RUNNING, False)])
    assert (gone.id, gone.by, gone.message) == (one, two, superseded(two))
