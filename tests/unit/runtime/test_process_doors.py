"""The doors of a worker process: whom they hold, whom they wake, what they tell."""

import asyncio
import math

from executor_kit import NOW, StillClock
from ingress_kit import LocalNews
from runtime_kit import until
from tollway.config import Breaker
from tollway.domain.gates import Blocked
from tollway.llm.outlook import Outlook
from tollway.queue.doors import EASE_FIRST
from tollway.runtime.dependencies import Dependencies
from tollway.runtime.doors import DoorOptions, ProcessDoors
from tollway.telemetry.metrics import Metrics


class SetTiers:
    """Tiers as the test sets them."""

    def __init__(self) -> None:
        self.seen = Outlook(0.0)
        self.asked = 0

    def outlook(self, tier: str, lane: str) -> Outlook:
        """As set."""
        self.asked += 1
        return self.seen


class Bench:
    """Doors of agents `syncs`, which requires crm, and `asks` and `plain`, which require nothing."""

    def __init__(self) -> None:
        self.clock = StillClock()
        self.dependencies = Dependencies(Breaker(), {}, LocalNews(), self.clock, Metrics())
        self.tiers = SetTiers()
        lanes = dict.fromkeys(("syncs", "asks", "plain"), "standard")
        options = DoorOptions(("interactive", "standard"), 30.0, {"syncs": ["crm"]}, lanes)
        self.doors = ProcessDoors(options, self.tiers, self.dependencies.board, self.clock)
        self.woken: list[str] = []
        self.doors.watch(self.woken.append)

    def kill(self) -> None:
        """The breaker of crm opens."""
        while self.dependencies.closed("crm") is None:
            passage = self.dependencies.enter("crm")
            assert passage is not None
            passage.failed(ConnectionRefusedError())

    def revive(self) -> None:
        """A probe succeeds."""
        self.clock.at += 4.0
        passage = self.dependencies.enter("crm")
        assert passage is not None
        passage.served()


async def test_a_shut_dependency_holds_those_that_require_it_and_wakes_them() -> None:
    """P8: the class has no room and says why; others are untouched; when it serves again the claimer is called."""
    bench = Bench()
    assert bench.doors.room("standard", "syncs") is None
    bench.kill()
    assert (bench.doors.room("standard", "syncs"), bench.doors.room("standard", "plain")) == (0, None)
    assert bench.doors.facts() == {"syncs": Blocked("dependency", "crm", NOW + 2.0)}
    bench.revive()
    assert bench.woken == ["standard"]
    assert bench.doors.room("standard", "syncs") == EASE_FIRST
    assert bench.doors.facts() == {}
    bench.doors.stop()
    bench.doors.stop()


async def test_who_took_the_last_place_is_called_when_there_are_more() -> None:
    """While a door eases, its class is claimed on without anybody asking, and without a poll."""
    bench = Bench()
    bench.kill()
    bench.doors.room("standard", "syncs")
    bench.revive()
    bench.woken.clear()
    for _ in range(EASE_FIRST):
        bench.doors.took("standard", "syncs")
    assert bench.woken == []
    bench.clock.at += 0.5
    await until(lambda: bench.woken == ["standard"])
    assert bench.doors.room("standard", "syncs") == EASE_FIRST


async def test_nobody_is_called_while_nobody_was_held() -> None:
    """An idle process has no timers: what shuts and opens with no run behind it costs nothing."""
    bench = Bench()
    bench.kill()
    bench.revive()
    await asyncio.sleep(0)
    assert (bench.woken, bench.doors._timer) == ([], None)


async def test_a_tier_holds_only_agents_that_were_seen_to_ask_it() -> None:
    """An agent that asks no model, or is not known yet, never waits for a provider, nor is any forecast made for it."""
    bench = Bench()
    bench.tiers.seen = Outlook(math.inf, 60.0, sound=False)
    bench.doors.ended("plain", None)
    for agent in ("asks", "plain"):
        assert bench.doors.room("standard", agent) is None
    assert bench.tiers.asked == 0
    bench.doors.ended("asks", "fast")
    assert bench.doors.room("standard", "asks") == 0
    assert bench.doors.facts() == {"asks": Blocked("capacity", "fast", NOW + 60.0)}
    bench.tiers.seen = Outlook(0.0)
    bench.clock.at += 1.0
    await until(lambda: bench.woken == ["standard"])


async def test_a_forecast_is_made_a_few_times_a_second_however_often_it_is_asked_for() -> None:
    """P9: a claim round costs a look into memory."""
    bench = Bench()
    bench.doors.ended("asks", "fast")
    for _ in range(1000):
        assert bench.doors.room("standard", "asks") is None
    assert bench.tiers.asked == 1


async def test_a_lane_bears_its_own_wait() -> None:
    """The first lane waits as long as calls do before they park, the others half of it."""
    bench = Bench()
    bench.doors.ended("asks", "fast")
    bench.tiers.seen = Outlook(20.0, waited_for=True)
    assert (bench.doors.room("interactive", "asks"), bench.doors.room("standard", "asks")) == (None, 0)
    assert bench.doors.facts() == {"asks": Blocked("capacity", "fast", NOW + 5.0)}
    bench.doors.stop()
