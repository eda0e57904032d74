"""What a bulk action acts on: counts, confirmations and snapshots, without a database."""

import base64
import string
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.errors import Problem
from tollway.ingress.replays import merged
from tollway.ingress.selection import (
    BULK_MAX,
    SNAPSHOT_MAX_S,
    Choice,
    Chosen,
    Snapshot,
    choose,
    meaning,
    read_snapshot,
    write_snapshot,
)
from tollway.record.dead_letters import DeadFilter
from tollway.record.reads import RunFilter

NOW = 1_800_000_000.0
LANE = RunFilter(lane="batch", metadata=(("a", "b"),))


def choice_of(now: list[UUID], then: list[UUID], wanted: RunFilter = LANE) -> Choice:
    """A set that was `then` when it was counted, and is `now`."""

    async def count() -> tuple[int, str]:
        return len(then), "5:9:6,7"

    async def ids(view: str | None, limit: int) -> list[UUID]:
        assert view in (None, "5:9:6,7")
        return [run for run in now if view is None or run in then][:limit]

    return Choice(wanted, count, ids)


sets = st.lists(st.uuids(), unique=True, max_size=6)


@given(sets, sets, st.data())
async def test_a_snapshot_means_nothing_uncounted(old: list[UUID], new: list[UUID], data: st.DataObject) -> None:
    """Whatever came and went, what is acted on was counted and is there still; the count stays as it was confirmed."""
    left = data.draw(st.lists(st.sampled_from(old), unique=True)) if old else []
    choice = choice_of([*left, *new], old)
    told: Any = await choose(choice, None, True, NOW)
    assert told["count"] == len(old)
    chosen = await choose(choice, told["count"], told["snapshot"], NOW + SNAPSHOT_MAX_S)
    assert isinstance(chosen, Chosen)
    assert set(chosen.ids) == set(old) & {*left, *new}
    assert chosen.count == len(old)


@given(sets, st.integers(min_value=0, max_value=8))
async def test_without_a_snapshot_the_number_must_be_that_of_now(now: list[UUID], confirm: int) -> None:
    """The confirmed number is that of the set as it stands, or nothing is acted on and the true one is told."""
    choice = choice_of(now, now)
    assert await choose(choice, None, None, NOW) == await choose(choice, None, False, NOW) == {"count": len(now)}
    if confirm == len(now):
        assert await choose(choice, confirm, None, NOW) == Chosen(confirm, now)
    else:
        with pytest.raises(Problem) as refused:
            await choose(choice, confirm, None, NOW)
        assert (refused.value.code, refused.value.fields["count"]) == ("confirm_mismatch", len(now))


async def test_more_than_the_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that means more than can be acted on at once is refused with the remedy."""
    monkeypatch.setattr("tollway.ingress.selection.BULK_MAX", 2)
    runs = [UUID(int=n) for n in range(3)]
    with pytest.raises(Problem, match="narrow it"):
        await choose(choice_of(runs, runs), 3, None, NOW)
    assert BULK_MAX == 1_000_000


@given(st.text(alphabet=string.printable + "é", max_size=60))
def test_a_snapshot_that_nobody_gave_out_is_refused(text: str) -> None:
    """Any text that is no snapshot is refused as the caller's fault."""
    with pytest.raises(Problem) as refused:
        read_snapshot(text, LANE, NOW)
    assert refused.value.code == "invalid_input"


@given(
    st.floats(), st.integers(-5, 1 << 70),
    st.text(max_size=30) | st.from_regex(r"[0-9]{1,20}:[0-9]{1,20}:[0-9,]{0,30}", fullmatch=True),
)  # fmt: skip
def test_a_forged_snapshot_is_refused_or_one_that_the_database_takes(at: float, count: int, view: str) -> None:
    """Whatever a client writes into a snapshot, what is let through has the form `least:next:in,progress`."""
    text = base64.urlsafe_b64encode(msgspec.json.encode([at, count, meaning(LANE), view])).decode()
    try:
        seen = read_snapshot(text, LANE, NOW)
    except Problem as problem:
        found = problem.code
    else:
        found = ""
        least, top, running = seen.view.split(":")
        among = [int(number) for number in running.split(",")] if running else []
        assert 0 < int(least) <= int(top) < 1 << 63
        assert all(int(least) <= number < int(top) for number in among)
        assert sorted(set(among)) == among
    assert found in ("", "invalid_input")


def test_a_snapshot_fits_its_own_filter_and_time() -> None:
    """It is read as it was written; of another filter, another tenant, of letters, or too old, it is refused."""
    snapshot = Snapshot(NOW, 3, meaning(LANE), "5:9:6,7")
    text = write_snapshot(snapshot)
    assert read_snapshot(text, LANE, NOW + 5) == snapshot
    for other in (RunFilter(lane="batch"), RunFilter(tenant="a", lane="batch", metadata=LANE.metadata), DeadFilter()):
        with pytest.raises(Problem, match="another filter"):
            read_snapshot(text, other, NOW)
    with pytest.raises(Problem, match="older than"):
        read_snapshot(text, LANE, NOW + SNAPSHOT_MAX_S + 1)
    assert meaning(RunFilter(lane="x")) != meaning(DeadFilter(lane="x"))


objects = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(objects, objects)
def test_merge_patches_are_those_of_the_rfc(value: Any, patch: Any) -> None:
    """RFC 7396: objects are merged member by member, null takes away, all else replaces; the value itself is kept."""
    before = msgspec.json.encode(value)
    whole = merged(value, patch)
    assert msgspec.json.encode(value) == before
    if not isinstance(patch, dict):
        assert whole == patch
        return
    old = value if isinstance(value, dict) else {}
    assert set(whole) == {name for name in {*old, *patch} if name not in patch or patch[name] is not None}
    for name, inner in whole.items():
        assert inner == (merged(old.get(name), patch[name]) if name in patch else old[name])
