"""Steps between snapshots of PostgreSQL: bounded, nothing seen twice, nothing left out."""

from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.snapshots import XIDS_LEAST, XIDS_MOST, Snapshot, Stride, read_snapshot, step_towards

FIRST, LAST = 3, 60


@st.composite
def history(draw: st.DrawFn) -> tuple[Snapshot, Snapshot]:
    """Two snapshots of one history, the second taken after the first."""
    begun = draw(st.integers(FIRST, LAST))
    running = draw(st.sets(st.integers(FIRST, begun))) - {begun}
    later = draw(st.integers(begun, LAST))
    still = {xid for xid in running if draw(st.booleans())}
    still |= draw(st.sets(st.integers(begun, later))) - {later}
    return snapshot(running, begun), snapshot(still, later)


def snapshot(running: set[int], xmax: int) -> Snapshot:
    """As PostgreSQL would take it."""
    return Snapshot(min(running, default=xmax), xmax, tuple(sorted(running)))


@given(history())
def test_it_reads_what_it_writes(pair: tuple[Snapshot, Snapshot]) -> None:
    """A snapshot's text is PostgreSQL's, there and back."""
    for one in pair:
        assert read_snapshot(str(one)) == one


@given(history(), st.integers(1, 40))
def test_a_step_goes_forward_and_not_too_far(pair: tuple[Snapshot, Snapshot], most: int) -> None:
    """A step sees all that the last did, nothing the present does not, and looks no further than it may."""
    last, now = pair
    upto = step_towards(last, now, most)
    for xid in range(1, LAST + 5):
        assert not last.sees(xid) or upto.sees(xid)
        assert not upto.sees(xid) or now.sees(xid)
    assert upto.xmax <= last.xmax + most
    assert upto == now or upto.xmax == last.xmax + most
    assert upto.xmin <= upto.xmax
    assert read_snapshot(str(upto)) == upto


@given(history(), st.integers(1, 10))
def test_steps_arrive_and_count_each_once(pair: tuple[Snapshot, Snapshot], most: int) -> None:
    """Steps end at the present; what each newly sees is, together, what ended since: each transaction once. (P10)"""
    last, now = pair
    counted: list[int] = []
    here = last
    while here != now:
        there = step_towards(here, now, most)
        counted += [xid for xid in range(FIRST, LAST + 5) if there.sees(xid) and not here.sees(xid)]
        here = there
    assert sorted(counted) == [xid for xid in range(FIRST, LAST + 5) if now.sees(xid) and not last.sees(xid)]


@given(history(), st.integers(1, 40))
def test_most_rows_are_judged_by_numbers_alone(pair: tuple[Snapshot, Snapshot], most: int) -> None:
    """The bounds that spare count_entries a look into a snapshot say the same as the snapshot."""
    last, upto = pair[0], step_towards(*pair, most)
    for xid in range(FIRST, LAST + 5):
        quick = last.xmin <= xid < upto.xmax and (xid < upto.xmin or upto.sees(xid))
        assert (quick and (xid >= last.xmax or not last.sees(xid))) == (upto.sees(xid) and not last.sees(xid))


@given(st.integers(XIDS_LEAST, XIDS_MOST))
def test_a_stride_is_soon_short_after_failures(xids: int) -> None:
    """However far a pass looked, after 14 failures the next looks at one transaction, and never at none."""
    stride = Stride(xids)
    for _ in range(14):
        shorter = stride.after_failure()
        assert XIDS_LEAST <= shorter.xids <= stride.xids
        stride = shorter
    assert stride.xids == 1


@given(st.lists(st.integers(0, 100_000), max_size=80))
def test_a_stride_stays_in_its_bounds(found: list[int]) -> None:
    """Whatever passes find, the next looks at some transactions, never none; little found makes it longer."""
    stride = Stride()
    for counted in found:
        after = stride.after(counted)
        assert XIDS_LEAST <= after.xids <= XIDS_MOST
        assert counted or after.xids >= stride.xids
        stride = after
