"""When and how much is claimed: pure timing, with a script in the place of what claims bring."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import pytest

from executor_kit import make_claim
from runtime_kit import until
from tollway.domain.errors import DatabaseUnavailable
from tollway.queue.floor import FLOOR_LAG_S, WHOLE_EVERY_S, Floor
from tollway.record.claims import LINES_MAX, Claim, Claimed
from tollway.runtime import claimer as claimer_module
from tollway.runtime.claimer import BATCH_MAX, EMPTY_FOR_S, Claimer, ClaimerOptions

LANES = ("interactive", "batch")


def brought(runs: int = 0, **given: Any) -> Claimed:
    """What a claim brings."""
    claims = [make_claim(lane="batch") for _ in range(runs)]
    return Claimed(claims, given.get("empty", []), given.get("low"), given.get("lines", 1))


class Script:
    """Answers claims as told, then with nothing; remembers what was asked."""

    def __init__(self, *answers: Claimed | Exception) -> None:
        self.answers = deque(answers)
        self.asked: list[tuple[str, int]] = []
        self.floors: list[float] = []
        self.closed: list[list[tuple[str, str]]] = []
        self.raised: list[tuple[str, float]] = []
        self.work: list[str] = []
        self.polls = 0

    async def claim(self, lane: str, floors: dict[str, float], wanted: int) -> Claimed:
        self.asked.append((lane, wanted))
        self.floors.append(floors["agent"])
        answer = self.answers.popleft() if self.answers else brought()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def lanes_with_work(self, lanes: Sequence[str], agents: Sequence[str]) -> list[str]:
        self.polls += 1
        return self.work

    async def mark_idle(self, lane: str, lines: Sequence[tuple[str, str]]) -> None:
        self.closed.append(list(lines))

    async def raise_floor(self, lane: str, floors: dict[str, float]) -> None:
        self.raised.append((lane, floors["agent"]))


class Hand:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class Bench:
    """A claimer over a script; what it takes runs for ever."""

    def __init__(self, script: Script, slots: int = 500, poll_s: float = 3600.0) -> None:
        self.script = script
        self.clock = Hand()
        self.running: Counter[str] = Counter()
        options = ClaimerOptions(LANES, {"interactive": 0.1}, slots, ("agent",))
        claims: Any = script
        self.claimer = Claimer(claims, self.clock, options, self.running, self._take, lambda: poll_s)

    def _take(self, claims: Sequence[Claim]) -> None:
        self.running.update(claim.lane for claim in claims)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for the claimer's rests."""
    monkeypatch.setattr(claimer_module, "PACE_S", 0.001)
    monkeypatch.setattr(claimer_module, "RETRY_S", 0.01)


async def stopped(bench: Bench, running: "asyncio.Task[None]") -> None:
    """Stop, twice, and await the end."""
    bench.claimer.stop()
    bench.claimer.stop()
    async with asyncio.timeout(20):
        await running
    assert not bench.claimer.claiming


async def test_it_begins_with_every_lane_and_then_goes_by_news() -> None:
    """At first each lane is asked once, in order; then only lanes with news, and strangers' lanes never."""
    bench = Bench(Script())
    running = asyncio.create_task(bench.claimer.run())
    await until(lambda: bench.claimer.claiming)
    assert bench.script.asked == [("interactive", BATCH_MAX), ("batch", BATCH_MAX)]
    bench.claimer.news("elsewhere,batch")
    await until(lambda: len(bench.script.asked) == 3)
    assert bench.script.asked[2] == ("batch", BATCH_MAX)
    assert bench.script.polls == 0
    await stopped(bench, running)


async def test_a_full_claim_is_followed_by_another() -> None:
    """A lane that brought all that was wanted has more, and is asked again without news until it falls short."""
    bench = Bench(Script(brought(), brought(BATCH_MAX), brought(BATCH_MAX), brought(3)))
    running = asyncio.create_task(bench.claimer.run())
    await until(lambda: bench.running["batch"] == 2 * BATCH_MAX + 3)
    assert [lane for lane, _ in bench.script.asked] == ["interactive", "batch", "batch", "batch"]
    await stopped(bench, running)


async def test_a_full_worker_claims_when_a_slot_is_freed() -> None:
    """It takes what it has slots for, asks no more while full, and goes on at the first freed slot."""
    bench = Bench(Script(brought(), brought(9)), slots=10)
    running = asyncio.create_task(bench.claimer.run())
    await until(lambda: bench.running["batch"] == 9)
    await until(lambda: bench.claimer.claiming and not bench.claimer._hungry)
    assert bench.script.asked == [("interactive", 10), ("batch", 9)]  # one slot is kept for the interactive lane
    bench.claimer.news("batch")
    await until(lambda: not bench.claimer._hungry)
    assert len(bench.script.asked) == 2
    bench.running["batch"] -= 2
    bench.claimer.slot_freed()
    await until(lambda: len(bench.script.asked) == 3)
    assert bench.script.asked[2] == ("batch", 2)
    await stopped(bench, running)


async def test_without_news_it_polls_with_one_question() -> None:
    """A poll asks which lanes have work, and only those are claimed from."""
    bench = Bench(Script(), poll_s=0.01)
    bench.clock.monotonic = time.monotonic  # type: ignore[method-assign]
    running = asyncio.create_task(bench.claimer.run())
    await until(lambda: bench.script.polls >= 3)
    assert len(bench.script.asked) == 2
    bench.script.work = ["batch"]
    await until(lambda: len(bench.script.asked) >= 3)
    assert bench.script.asked[2][0] == "batch"
    await stopped(bench, running)


async def test_an_unreachable_database_is_waited_for() -> None:
    """Meanwhile the worker does not count as claiming; afterwards every lane is asked again."""
    bench = Bench(Script(brought(), DatabaseUnavailable("gone"), DatabaseUnavailable("gone")))
    running = asyncio.create_task(bench.claimer.run())
    await until(lambda: len(bench.script.asked) >= 2)
    assert not bench.claimer.claiming
    await until(lambda: bench.claimer.claiming)
    assert [lane for lane, _ in bench.script.asked[-2:]] == ["interactive", "batch"]
    await stopped(bench, running)


async def test_a_line_is_closed_once_it_stayed_empty() -> None:
    """Most lines fill again within a moment: the first time found empty is only noted, and a claim forgets it."""
    line = ("agent", "default")
    bench = Bench(Script(*[brought(empty=[line])] * 2, brought(1), *[brought(empty=[line])] * 3))
    claim = bench.claimer._claim
    await claim("batch")
    bench.clock.at += EMPTY_FOR_S - 0.1
    await claim("batch")
    await claim("batch")  # brings a run of that line
    bench.clock.at += 0.2
    await claim("batch")
    assert bench.script.closed == []
    bench.clock.at += EMPTY_FOR_S
    await claim("batch")
    assert bench.script.closed == [[line]]
    await claim("batch")
    assert bench.script.closed == [[line]]


async def test_empty_lines_in_the_way_are_closed_at_once() -> None:
    """When as many lines as a claim looks at brought too little, the empty ones go, and the lane is asked again."""
    line = ("agent", "default")
    bench = Bench(Script(brought(3, empty=[line], lines=LINES_MAX)))
    bench.claimer._hungry.clear()
    await bench.claimer._claim("batch")
    assert bench.script.closed == [[line]]
    assert bench.claimer._hungry == {"batch"}


async def test_the_floor_is_written_for_newcomers() -> None:
    """How far service has come is remembered at most once a second, and only when it rose."""
    bench = Bench(Script(brought(low=5.0), brought(low=7.0), brought(low=7.0), brought(low=6.0)))
    for passed_s in (0.0, WHOLE_EVERY_S / 2, WHOLE_EVERY_S, WHOLE_EVERY_S):
        bench.clock.at += passed_s
        await bench.claimer._claim("batch")
    assert bench.script.raised == [("batch", 5.0), ("batch", 7.0)]


def test_the_floor_is_what_was_seen_two_seconds_ago() -> None:
    """The whole index is read once a second and after a short claim; between, from the least time of the lag before."""
    floor = Floor(("agent",))
    assert floor.at(10.0) == {"agent": 0.0}  # whole
    floor.saw(50.0, 10.0)
    assert floor.at(10.1) == {"agent": 0.0}  # what stood before anything was seen
    floor.saw(40.0, 10.2)
    floor.at(10.0 + FLOOR_LAG_S)  # whole again
    assert floor.at(10.1 + FLOOR_LAG_S) == {"agent": 40.0}
    floor.saw(30.0, 12.2)  # lower than the floor: it is lowered at once
    assert floor.at(12.3) == {"agent": 30.0}
    floor.short()
    assert floor.at(12.4) == {"agent": 0.0}
    assert floor.at(12.5) == {"agent": 30.0}


def test_a_floor_that_saw_nothing_is_none() -> None:
    """After a lag without any claim the next ones begin from nothing, not from infinity."""
    floor = Floor(("agent",))
    found = [floor.at(10.0 + step * 0.7)["agent"] for step in range(20)]
    assert set(found) == {0.0}
