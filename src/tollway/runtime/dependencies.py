"""What agents' tasks depend on: a breaker each, fed by the outcomes of `run.task(dependency=…)` in every worker.

A failure is an exception of the function, `tollway.Retry` included (its author says: not now), and an attempt that ran
out of time with the task under way for most of it. `tollway.Reject` and errors of Tollway itself say nothing of the
dependency, and nor does a cancel.
"""

import random
import re
from collections.abc import Mapping
from typing import Any

from tollway.config import Breaker as BreakerSettings
from tollway.config import Dependency
from tollway.domain.clock import Clock
from tollway.domain.errors import Retry, TollwayError
from tollway.domain.gates import Gate
from tollway.domain.news import News
from tollway.domain.outcomes import Parked
from tollway.llm.breakers.board import BreakerBoard
from tollway.llm.breakers.breaker import Breaker
from tollway.llm.breakers.news import DEPENDENCIES
from tollway.llm.breakers.parts import BreakerOptions, Ticket
from tollway.telemetry.metrics import Metrics

AGAIN_S = 1.0
"""For how long a run parks that came while others try a dependency; it is called earlier when they succeed."""

_SHOWN_MAX = 100
_MOST_OF = 0.5
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,127}")


def checked_dependency(name: str) -> str:
    """The name, if it can be one. Raises ValueError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"a dependency's name must be 1 to 128 letters, digits or _ . : / @ -, not {name!r}; name the service, "
            "not the request"
        )
    return name


class Passage:
    """The right to one call of a dependency; its first end counts."""

    __slots__ = ("_breaker", "_clock", "_ticket")

    def __init__(self, breaker: Breaker, ticket: Ticket, clock: Clock) -> None:
        self._breaker = breaker
        self._ticket = ticket
        self._clock = clock

    def begins(self) -> None:
        """The call goes out now."""
        self._breaker.sent(self._ticket, self._clock.monotonic())

    def served(self) -> None:
        """The call came back."""
        self._breaker.end(self._ticket, self._clock.monotonic(), ok=True)

    def failed(self, error: BaseException) -> None:
        """The call raised this."""
        if isinstance(error, TollwayError) and not isinstance(error, Retry):
            self._breaker.drop(self._ticket)
        else:
            self._breaker.end(self._ticket, self._clock.monotonic(), ok=False)

    def cut(self, timed_out_s: float | None = None) -> None:
        """The call was given up: for nothing it did or, with `timed_out_s`, since the attempt had no longer."""
        now = self._clock.monotonic()
        if timed_out_s is not None and now - self._ticket.begun_at >= _MOST_OF * timed_out_s:
            self._breaker.end(self._ticket, now, ok=False)
        else:
            self._breaker.drop(self._ticket)


class Dependencies:
    """The breakers of one worker's dependencies. `board` is for whoever looks at them."""

    def __init__(
        self,
        settings: BreakerSettings,
        own: Mapping[str, Dependency],
        news: News,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._own = own
        self._clock = clock
        self._metrics = metrics
        self._gauged = 0
        self.board = BreakerBoard({}, news, clock, DEPENDENCIES, self._options)
        for name in own:
            self.board.of(name)

    def enter(self, name: str) -> Passage | None:
        """The right to call it now, if its breaker admits it."""
        breaker, now = self.board.of(name), self._clock.monotonic()
        if not breaker.admits(now, random.random()):
            return None
        return Passage(breaker, breaker.begin(now, sent=False), self._clock)

    def closed(self, name: str) -> Parked | None:
        """What a run that may not enter is to do; None where others are trying it, which is soon over."""
        breaker, now = self.board.of(name), self._clock.monotonic()
        breaker.look(now)
        return None if breaker.opens_at is None else parked(name, breaker.opens_at - now)

    def facts(self) -> dict[str, Any]:
        """What a worker tells of them, as JSON: those that were called lately or are in trouble."""
        shown = self.board.shown().items()
        told = [(name, one) for name, one in shown if one["calls"] or one["state"] != "closed"]
        return dict(sorted(told, key=lambda item: item[1]["state"] == "closed")[:_SHOWN_MAX])

    def _options(self, name: str) -> BreakerOptions:
        if self._gauged < _SHOWN_MAX:
            self._gauged += 1
            self._metrics.dependency_open.read(lambda: float(self.board.of(name).state != "closed"), name)
        return BreakerOptions.of_dependency(self._settings, self._own.get(name, Dependency()))


def parked(name: str, wait_s: float) -> Parked:
    """How an attempt ends that cannot go on without this dependency."""
    message = f"the dependency {name!r} is in trouble; its breaker is not closed"
    return Parked(wait_s, "dependency_open", message, Gate.DEPENDENCY.before(name))
