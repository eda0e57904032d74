"""The decisions at the door, as properties."""

from hypothesis import given
from hypothesis import strategies as st

from tollway.queue.admission import Bounds, Shedder, Strain, too_late

MOMENTS = st.floats(0, 1e6)
BEARABLE = Strain(0.4, 1.5)


@given(MOMENTS, MOMENTS, st.none() | MOMENTS, st.none() | MOMENTS, st.none() | st.floats(0, 1e5))
def test_a_start_is_too_late_only_beyond_a_bound_that_was_set(
    start: float, due: float, deadline: float | None, ttl_end: float | None, max_wait: float | None
) -> None:
    """What is refused misses the bound named by the seconds named; what keeps all of them passes."""
    late = too_late(start, Bounds(due, deadline, ttl_end, max_wait))
    limits = {"deadline_s": deadline, "ttl_s": ttl_end, "max_wait_s": None if max_wait is None else due + max_wait}
    missed = {name: start - at for name, at in limits.items() if at is not None and start >= at}
    if late is None:
        assert not missed
    else:
        assert missed[late.bound] == late.by_s == max(missed.values())


@given(st.lists(st.builds(Strain, st.floats(0, 100), st.floats(0, 100)), max_size=60))
def test_the_share_stays_a_share_and_goes_when_the_strain_does(strains: list[Strain]) -> None:
    """Whatever was seen, between none and all are turned away, and none any more ten seconds after the last strain."""
    shedder = Shedder(BEARABLE)
    for strain in strains:
        shedder.look(strain)
        assert 0.0 <= shedder.share <= 1.0
    for _ in range(40):
        shedder.look(Strain(0.0, 0.0))
    assert shedder.share == 0.0
    assert not shedder.sheds()


def test_one_hiccup_turns_nobody_away() -> None:
    """A loop that stood still once sheds nothing; one that stays late sheds most within two seconds."""
    shedder = Shedder(BEARABLE)
    shedder.look(Strain(3.0, 0.0))
    shedder.look(Strain(0.0, 0.0))
    assert shedder.share == 0.0
    for _ in range(8):
        shedder.look(Strain(0.9, 0.0))
    assert shedder.share > 0.85


@given(st.floats(1.1, 20))
def test_turning_away_settles_where_the_rest_can_be_served(overload: float) -> None:
    """Against a steady overload the served load comes to what can be borne, and stays near it."""
    shedder, served = Shedder(BEARABLE), []
    backlog_s = 0.0
    for look in range(400):
        load = overload * (1.0 - shedder.share)
        backlog_s = max(0.0, backlog_s + 0.25 * (load - 1.0))
        shedder.look(Strain(backlog_s, 0.0))
        if look > 100:
            served.append(min(load, 1.0) if not backlog_s else 1.0)
    assert sum(served) / len(served) >= 0.9


@given(st.lists(st.builds(Strain, st.floats(0.5, 5), st.floats(0, 1)), min_size=5, max_size=30))
def test_as_many_are_turned_away_as_the_share_says(strains: list[Strain]) -> None:
    """Over many requests the part turned away is the share, to within one request."""
    shedder = Shedder(BEARABLE)
    for strain in strains:
        shedder.look(strain)
    gone = sum(shedder.sheds() for _ in range(1000))
    assert abs(gone - 1000 * shedder.share) <= 1.001
