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
from tollway.queue.bulkheads import Bulkheads, Held
from tollway.queue.floors import FLOOR_LAG_S, WHOLE_EVERY_S, Floor
from tollway.record.claims import LINES_MAX, Claim, ClaimBounds, Claimed, Work
from tollway.runtime import claimer as claimer_module
from tollway.runtime.claimer import AGE_EVERY_S, BATCH_MAX, EMPTY_FOR_S, EMPTY_KNOWN_S, Claimer, ClaimerOptions

LANES = ("interactive", "batch")


def brought(runs: int = 0, **given: Any) -> Claimed:
    """What a claim brings: runs of `agent` for `tenant`, and what is said of the lines."""
    of = {name: given.pop(name) for name in ("agent", "tenant", "lane") if name in given}
    claims = [make_claim(**{"lane": "batch", **of}) for _ in range(runs)]
    return Claimed(claims, **{"empty": [], "low": None, "lines": 1, **given})


class Script:
    """Answers claims as told, then with nothing; remembers what was asked."""

    def __init__(self, *answers: Claimed | Exception) -> None:
        self.answers = deque(answers)
        self.asked: list[tuple[str, int]] = []
        self.floors: list[float] = []
        self.closed: list[list[tuple[str, str]]] = []
        self.raised: list[tuple[str, float]] = []
        self.work = Work([], shared=False)
        self.polls = 0
        self.agents: list[list[str]] = []
        self.bounds: list[ClaimBounds] = []
        self.oldest: float | None = None
        self.looks = 0
        self.turned: list[list[str]] = []

    async def claim(self, lane: str, floors: dict[str, float], wanted: int, bounds: ClaimBounds) -> Claimed:
        self.asked.append((lane, wanted))
        self.agents.append(list(floors))
        self.bounds.append(bounds)
        self.floors.append(min(floors.values()))
        answer = self.answers.popleft() if self.answers else brought()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def look_for_work(self, lanes: Sequence[str], agents: Sequence[str]) -> Work:
        self.polls += 1
        return self.work

    async def oldest_at(self, lane: str, agents: Sequence[str]) -> float | None:
        self.looks += 1
        return self.oldest

    async def turn_capped(self, tenants: Sequence[str]) -> list[str]:
        self.turned.append(list(tenants))
        return []

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

    def __init__(self, script: Script, slots: int = 500, poll_s: float = 3600.0, **given: Any) -> None:
        self.script = script
        self.clock = Hand()
        self.held = Held()
        options = ClaimerOptions(
            LANES, **{"shares": {"interactive": 0.1}, "slots": slots, "agents": ("agent",), **given}
        )
        claims: Any = script
        self.claimer = Claimer(claims, self.clock, options, self.held, self._take, lambda: poll_s)

    @property
    def running(self) -> Counter[str]:
        """What runs, by lane."""
        return self.held.lanes

    def _take(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            self.held.add(claim.lane, claim.agent, claim.tenant)


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
    for _ in range(2):
        bench.held.free("batch", "agent", "default")
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
    bench.script.work = Work(["batch"], shared=False)
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


async def test_lines_that_others_closed_are_forgotten() -> None:
    """What was seen empty once and never again is kept for a minute or two, however many lines there are; seen empty
    anew after that, it must stay empty anew before it is closed."""
    lines = [("agent", f"t{n}") for n in range(50)]
    last = [brought(empty=[lines[0]]), brought(empty=[lines[0]])]
    bench = Bench(Script(*(brought(empty=[line]) for line in lines), *last))
    for _ in lines:
        await bench.claimer._claim("batch")
        bench.clock.at += EMPTY_KNOWN_S / 10
        assert len(bench.claimer._empty_since) <= 20
    await bench.claimer._claim("batch")
    assert bench.script.closed == []
    bench.clock.at += EMPTY_FOR_S
    await bench.claimer._claim("batch")
    assert bench.script.closed == [[lines[0]]]


async def test_empty_lines_in_the_way_are_closed_at_once() -> None:
    """When as many lines as a claim looks at brought too little, the empty ones go, and the lane is asked again."""
    line = ("agent", "default")
    bench = Bench(Script(brought(3, empty=[line], lines=LINES_MAX, more=True)))
    bench.claimer._hungry.clear()
    await bench.claimer._claim("batch")
    assert bench.script.closed == [[line]]
    assert bench.claimer._hungry == {"batch"}


async def test_the_floor_is_written_for_newcomers() -> None:
    """How far service has come is remembered at most once a second, and only when it rose."""
    bench = Bench(Script(*(brought(low=1.0, level=level) for level in (5.0, 7.0, 7.0, 6.0))))
    for passed_s in (0.0, WHOLE_EVERY_S / 2, WHOLE_EVERY_S, WHOLE_EVERY_S):
        bench.clock.at += passed_s
        await bench.claimer._claim("batch")
    assert bench.script.raised == [("batch", 5.0), ("batch", 7.0)]


def test_the_floor_is_what_was_seen_two_seconds_ago() -> None:
    """The whole index is read once a second and after a short claim; between, from the least time of the lag before."""
    floor = Floor()
    assert floor.at(10.0, ["agent"]) == {"agent": 0.0}  # whole
    floor.saw(50.0)
    assert floor.at(10.1, ["agent"]) == {"agent": 0.0}  # what stood before anything was seen
    floor.saw(40.0)
    floor.at(10.0 + FLOOR_LAG_S, ["agent"])  # whole again
    assert floor.at(10.1 + FLOOR_LAG_S, ["agent"]) == {"agent": 40.0}
    floor.saw(30.0)  # lower than the floor: it is lowered at once
    assert floor.at(12.3, ["agent"]) == {"agent": 30.0}
    floor.short()
    assert floor.at(12.4, ["agent"]) == {"agent": 0.0}
    assert floor.at(12.5, ["agent"]) == {"agent": 30.0}


def test_the_whole_index_is_read_less_often_when_it_is_dear() -> None:
    """With dead entries piled up below the floor, looks at everything take a small part of the time, and yet come."""
    floor, now, whole_s = Floor(), 100.0, 0.0
    for _ in range(60_000):
        whole = not any(floor.at(now, ["agent"]).values())
        took_s = 0.2 if whole else 0.002
        now += took_s
        floor.took(took_s, now, whole=whole)
        floor.saw(50.0)
        whole_s += took_s * whole
    assert 0.01 <= whole_s / (now - 100.0) <= 0.06
    floor.short()
    wait_s = 0.0
    while any(floor.at(now + wait_s, ["agent"]).values()):
        wait_s += 0.05
    assert wait_s <= 1.1


def test_a_floor_that_saw_nothing_is_none() -> None:
    """After a lag without any claim the next ones begin from nothing, not from infinity."""
    floor = Floor()
    found = [floor.at(10.0 + step * 0.7, ["agent"])["agent"] for step in range(20)]
    assert set(found) == {0.0}


class Shut:
    """Doors with a fixed room for some agents."""

    def __init__(self, **rooms: int) -> None:
        self.rooms = rooms

    def room(self, lane: str, agent: str) -> int | None:
        return self.rooms.get(agent)


async def test_a_class_behind_a_closed_door_is_left_out() -> None:
    """Its lines are not looked at, one that may start a few is bounded, and where all are closed nobody asks (P8)."""
    bench = Bench(Script(), agents=("well", "held", "easing"), doors=Shut(held=0, easing=2))
    await bench.claimer._claim("batch")
    assert bench.script.agents == [["well", "easing"]]
    assert bench.script.bounds[0].agents["easing"] == 2
    bench = Bench(Script(), doors=Shut(agent=0))
    await bench.claimer._claim("batch")
    assert (bench.script.asked, bench.claimer._backlogged) == ([], set())


async def test_an_agent_that_fills_its_share_is_left_out_until_a_run_ends() -> None:
    """One agent of several holds its share of what the lane reaches; the others go on, and a freed slot asks again."""
    bench = Bench(
        Script(brought(80, agent="hangs")), slots=100, shares={}, agents=("hangs", "well"),
        bulkheads=Bulkheads(agent_share_max=0.8),
    )  # fmt: skip
    await bench.claimer._claim("batch")
    assert bench.script.bounds[0].agents == {"hangs": 80, "well": 80}
    await bench.claimer._claim("batch")
    assert (bench.script.asked[1], bench.script.agents[1]) == (("batch", 20), ["well"])
    assert bench.claimer._backlogged == {"batch"}


async def test_a_bound_that_was_not_reached_asks_for_nothing_more() -> None:
    """With several agents and some runs in slots, a lane whose backlog was taken is not asked again at each end."""
    bench = Bench(Script(brought(3)), slots=50, shares={}, agents=("agent", "well"), bulkheads=Bulkheads(0.8, 0.8))
    bench.claimer._shared = True
    await bench.claimer._claim("batch")
    assert bench.claimer._backlogged == set()


async def test_a_tenant_that_fills_its_share_is_left_out_where_there_are_others() -> None:
    """A tenant alone may have every slot; from the poll that finds another on, it holds its share."""
    bench = Bench(Script(brought(10)), slots=20, shares={}, poll_s=0.01, bulkheads=Bulkheads(tenant_share_max=0.5))
    await bench.claimer._claim("batch")
    assert bench.script.bounds[0] == ClaimBounds({"agent": 20})
    bench.script.work = Work([], shared=True)
    bench.claimer._hungry = {"batch"}
    await bench.claimer._rest()
    await bench.claimer._claim("batch")
    assert bench.script.bounds[1] == ClaimBounds({"agent": 10}, {"default": 0}, 10)


async def test_lines_not_looked_at_are_looked_at_next() -> None:
    """A claim that fell short though there is more (below the floor, or in another's hands) is made again, whole."""
    bench = Bench(Script(brought(low=5.0), brought(2, more=True), brought()))
    bench.clock.at += FLOOR_LAG_S
    for _ in range(2):
        await bench.claimer._claim("batch")
        bench.clock.at += 0.1
    assert (bench.claimer._hungry >= {"batch"}, bench.claimer._backlogged) == (True, {"batch"})
    await bench.claimer._claim("batch")
    assert bench.script.floors[-1] == 0.0
    assert bench.claimer._backlogged == set()


async def test_tenants_without_room_are_turned() -> None:
    """When a claim took a capped tenant's last room, its lines are made full."""
    bench = Bench(Script(brought(1, filled=["capped"])))
    await bench.claimer._claim("batch")
    assert bench.script.turned == [["capped"]]


async def test_a_starved_lane_goes_first_every_other_time_once_its_work_is_old() -> None:
    """P7: a full worker looks how long a lane's work has waited; once too long, every other round begins with it."""
    script = Script()
    bench = Bench(script, slots=1, shares={}, age_after_s={"batch": 30.0})
    bench.claimer._take([make_claim(lane="interactive")])
    script.oldest = bench.clock.at - 30.5
    for passed_s in (0.0, AGE_EVERY_S / 2, AGE_EVERY_S):
        bench.clock.at += passed_s
        await bench.claimer._claim("batch")
    assert (script.asked, script.looks) == ([], 2)
    bench.held.free("interactive", "agent", "default")
    bench.claimer._hungry = set(LANES)
    await bench.claimer._round()
    assert [lane for lane, _ in script.asked] == ["batch", "interactive"]
    bench.claimer._hungry = set(LANES)
    await bench.claimer._round()  # nothing waits any more
    assert [lane for lane, _ in script.asked[2:]] == ["interactive", "batch"]
