"""Several processes calling a troubled route and a sound one, in virtual time; each has a board, news takes a while."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from tollway.config import Breaker as BreakerSettings
from tollway.config import Route
from tollway.llm.breakers.board import BreakerBoard

NEWS_DELAY_S = 0.03
TIMEOUT_S = 30.0


class Time:
    """Virtual time: what is due is done in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Do it then."""
        heappush(self._due, (when, next(self._number), what))

    def run(self, until: float) -> None:
        """Do all that is due before then."""
        while self._due and self._due[0][0] < until:
            self.now, _, what = heappop(self._due)
            what()
        self.now = until


@dataclass
class LocalClock:
    """A process' clock: its monotonic second zero is its own, and its idea of the database's time a little off."""

    time: Time
    zero: float
    skew_s: float

    def now(self) -> float:
        """Epoch seconds."""
        return 1.7e9 + self.time.now + self.skew_s

    def monotonic(self) -> float:
        """Seconds since the process' own zero."""
        return self.time.now + self.zero


class SlowNews:
    """News that arrive NEWS_DELAY_S later, also with who said them."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.said: list[str] = []
        self._callbacks: list[Callable[[str], None]] = []

    def publish(self, channel: str, message: str) -> None:
        """Tell every subscriber, later."""
        self.said.append(message)
        for callback in self._callbacks:
            self.time.at(self.time.now + NEWS_DELAY_S, lambda callback=callback: callback(message))

    def subscribe(self, channel: str, callback: Callable[[str], None]) -> Callable[[], None]:
        """Subscribe."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)


@dataclass
class Trouble:
    """What is wrong with the first route between two moments: `dies`, `hangs` or `slows` tenfold."""

    kind: str
    begins: float
    ends: float
    latency_p99_max_s: float


@dataclass
class Fleet:
    """The processes, and what became of every call: (begun at, took, whether the first route was tried)."""

    trouble: Trouble
    processes: int = 4
    rate: float = 50.0
    seed: int = 1
    calls: list[tuple[float, float, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.time = Time()
        self.news = SlowNews(self.time)
        self.chance = random.Random(self.seed)
        self.boards: list[BreakerBoard] = []
        self.clocks: list[LocalClock] = []
        for _ in range(self.processes):
            self.add_process()

    def add_process(self, calls: bool = True) -> None:
        """One more, which makes calls or only listens."""
        number, budget_s = len(self.boards), self.trouble.latency_p99_max_s
        route = Route(name="first", tier="fast", provider="p", model="m", latency_p99_max_s=budget_s)
        clock = LocalClock(self.time, 1000.0 * (number + 1), self.chance.uniform(-0.005, 0.005))
        board = BreakerBoard.of_routes([route], BreakerSettings(), self.news, clock)
        board.start()
        self.boards.append(board)
        self.clocks.append(clock)
        if calls:
            self.time.at(self.time.now + self.chance.expovariate(self.rate), lambda: self._arrive(number))

    def run(self, until: float) -> None:
        """Go on until then."""
        self.time.run(until)

    def latency_s(self) -> float:
        """What a sound route takes: 50 ms, rarely more than twice that."""
        return 0.05 * self.chance.lognormvariate(0, 0.25)

    def _arrive(self, number: int) -> None:
        begun = self.time.now
        self.time.at(begun + self.chance.expovariate(self.rate), lambda: self._arrive(number))
        breaker = self.boards[number].of("first")
        monotonic = self.clocks[number].monotonic
        if not breaker.admits(monotonic(), self.chance.random()):
            self.calls.append((begun, self.latency_s(), False))
            return
        ticket = breaker.begin(monotonic())
        took_s, ok = self._answer()

        def end() -> None:
            breaker.end(ticket, monotonic(), ok, 100)
            second_s = 0.0 if ok else self.latency_s()
            self.calls.append((begun, took_s + second_s, True))

        self.time.at(begun + took_s, end)

    def _answer(self) -> tuple[float, bool]:
        trouble, took_s = self.trouble, self.latency_s()
        if not trouble.begins <= self.time.now < trouble.ends:
            return took_s, True
        if trouble.kind == "dies":
            return 0.002, False
        if trouble.kind == "hangs":
            return TIMEOUT_S, False
        return took_s * 10, True
