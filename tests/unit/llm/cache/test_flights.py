"""Single flight: one makes, the others have its answer; failures and cancellations stay with whom they happened to."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_kit import until
from tollway.llm.cache.flights import Flights

KEY = b"key"


class Made:
    """Makes answers when told to, and counts how many were begun and how many at once."""

    def __init__(self) -> None:
        self.flights: Flights[str] = Flights()
        self.begun = self.at_once = self.most_at_once = 0
        self.go: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ask(self, key: bytes = KEY) -> str:
        """The answer, made or followed."""
        with await self.flights.board(key) as flight:
            if flight.answer is not None:
                return flight.answer
            self.begun += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                answer = await asyncio.shield(self.go)
            finally:
                self.at_once -= 1
            flight.land(answer)
            return answer

    def next(self, outcome: Callable[[asyncio.Future[str]], None]) -> None:
        """End what is being made, and make ready for another."""
        ended, self.go = self.go, asyncio.get_running_loop().create_future()
        outcome(ended)

    async def finish(self, tasks: list[asyncio.Task[str]]) -> None:
        """Answer whoever leads until all are done."""
        async with asyncio.timeout(5):
            while not all(task.done() for task in tasks):
                if self.at_once:
                    self.next(lambda go: go.set_result("answer"))
                await asyncio.sleep(0)

    async def crowd(self, size: int) -> list[asyncio.Task[str]]:
        """A leader and its followers, all on board."""
        tasks = [asyncio.ensure_future(self.ask()) for _ in range(size)]
        await until(lambda: self.begun == 1)
        await asyncio.sleep(0)
        return tasks


async def test_identical_calls_in_flight_are_one() -> None:
    """Of a crowd with one key one makes the answer, and all have it; another key has a flight of its own."""
    made = Made()
    crowd = await made.crowd(10)
    other = asyncio.ensure_future(made.ask(b"other"))
    await until(lambda: made.begun == 2)
    made.next(lambda go: go.set_result("answer"))
    assert await asyncio.gather(*crowd, other) == ["answer"] * 11
    assert (made.begun, len(made.flights)) == (2, 0)


async def test_a_failure_is_the_leaders_own() -> None:
    """A leader that fails raises alone; one follower leads next, and the rest follow it."""
    made = Made()
    crowd = await made.crowd(5)
    made.next(lambda go: go.set_exception(RuntimeError("no")))
    with pytest.raises(RuntimeError):
        await crowd[0]
    await until(lambda: made.begun == 2)
    made.next(lambda go: go.set_result("answer"))
    assert await asyncio.gather(*crowd[1:]) == ["answer"] * 4
    assert (made.begun, made.most_at_once, len(made.flights)) == (2, 1, 0)


async def test_a_cancelled_leader_takes_nobody_along() -> None:
    """A leader's cancellation is not inherited: one follower leads next, in the order of boarding."""
    made = Made()
    crowd = await made.crowd(4)
    crowd[0].cancel()
    await until(lambda: made.begun == 2)
    crowd[1].cancel()
    await until(lambda: made.begun == 3)
    made.next(lambda go: go.set_result("answer"))
    assert await asyncio.gather(*crowd[2:]) == ["answer"] * 2
    assert [task.cancelled() for task in crowd[:2]] == [True, True]
    assert (made.most_at_once, len(made.flights)) == (1, 0)


async def test_a_follower_may_give_up() -> None:
    """Followers that give up, by deadline or cancel, leave the leader and the other followers as they were."""
    made = Made()
    crowd = await made.crowd(4)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await made.ask()
    crowd[2].cancel()
    await asyncio.gather(crowd[2], return_exceptions=True)
    made.next(lambda go: go.set_result("answer"))
    assert await asyncio.gather(crowd[0], crowd[1], crowd[3]) == ["answer"] * 3
    assert made.begun == 1


@pytest.mark.parametrize("leader_first", [True, False])
async def test_leader_and_heir_may_go_in_the_same_moment(leader_first: bool) -> None:
    """A follower that is cancelled in the very turn in which the lead comes to it passes it on."""
    made = Made()
    crowd = await made.crowd(4)
    made.next(lambda go: go.set_exception(RuntimeError("no")))
    if leader_first:
        await asyncio.gather(crowd[0], return_exceptions=True)
    crowd[1].cancel()
    await made.finish(crowd)
    assert crowd[1].cancelled()
    assert [task.result() for task in crowd[2:]] == ["answer"] * 2
    assert (made.most_at_once, len(made.flights)) == (1, 0)


async def test_a_leader_that_just_leaves_lets_another_lead() -> None:
    """Leaving without an answer, and landing or leaving twice, does no harm."""
    flights: Flights[str] = Flights()
    first = await flights.board(KEY)
    second = asyncio.ensure_future(flights.board(KEY))
    await asyncio.sleep(0)
    first.leave()
    first.leave()
    first.land("late")
    heir = await second
    assert heir.answer is None
    heir.land("answer")
    heir.leave()
    assert len(flights) == 0
    fresh = await flights.board(KEY)
    assert fresh.answer is None


@given(st.lists(st.sampled_from(["board", "cancel", "fail", "land", "turn"]), max_size=40), st.randoms())
def test_whatever_happens_somebody_leads(steps: list[str], random: "st.randoms") -> None:  # type: ignore[valid-type]
    """In any order of boardings, cancels, failures and landings at most one leads, and nobody waits for nobody."""

    async def play() -> None:
        made = Made()
        tasks: list[asyncio.Task[str]] = []
        for step in steps:
            if step == "board":
                tasks.append(asyncio.ensure_future(made.ask()))
            elif step == "cancel" and tasks:
                random.choice(tasks).cancel()  # type: ignore[attr-defined]
            elif step == "fail" and made.at_once:
                made.next(lambda go: go.set_exception(RuntimeError("no")))
            elif step == "land":
                made.next(lambda go: go.set_result("answer"))
            elif step == "turn":
                await asyncio.sleep(0)
        await made.finish(tasks)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert made.most_at_once <= 1
        assert len(made.flights) == 0

    asyncio.run(play())
