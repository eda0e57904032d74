"""The breakers of all routes in one process, of one mind with those of the other processes.

Opening, probing and success travel as news on the channel "breaker"; nothing is said while nothing changes. News may
be lost: a process that missed it finds out by its own calls, and hears of the next probe.
"""

from collections.abc import Callable, Sequence
from functools import partial
from secrets import token_hex
from typing import Any, Literal

import msgspec

from tollway.config import Breaker as BreakerSettings
from tollway.config import Route
from tollway.domain.clock import Clock
from tollway.domain.news import News
from tollway.llm.breakers.breaker import Breaker
from tollway.llm.breakers.parts import BreakerOptions, Change
from tollway.telemetry.logs import get_logger

log = get_logger(__name__)

CHANNEL = "breaker"


class _Told(msgspec.Struct, omit_defaults=True):
    """A change as it travels; `at` and `until` are seconds of the database's time, `by` is the process that says it."""

    route: str
    state: Literal["open", "probing", "ramping"]
    by: str
    at: float
    until: float = 0.0
    pause_s: float = 0.0


class BreakerBoard:
    """One breaker a route. `start` listens to the other processes; `stop` may be called twice."""

    def __init__(self, routes: Sequence[Route], settings: BreakerSettings, news: News, clock: Clock) -> None:
        self._news = news
        self._clock = clock
        self._me = token_hex(6)
        self._open_max_s = settings.open_max_s
        self._breakers = {
            route.name: Breaker(BreakerOptions.of(settings, route), partial(self._changed, route.name))
            for route in routes
        }
        self._changed_at: dict[str, float] = {}
        self._unsubscribe: Callable[[], None] | None = None
        self._decode = msgspec.json.Decoder(_Told).decode
        self._encode = msgspec.json.Encoder().encode

    def start(self) -> None:
        """Hear of the other processes' changes."""
        if self._unsubscribe is None:
            self._unsubscribe = self._news.subscribe(CHANNEL, self._heard)

    def stop(self) -> None:
        """Hear no more."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def of(self, route: str) -> Breaker:
        """The breaker of a route, by its name; its times are the clock's monotonic seconds. Raises KeyError."""
        return self._breakers[route]

    def trouble_since(self, route: str) -> float | None:
        """The monotonic second since when the route has not been quite well; None if it is."""
        breaker = self._breakers[route]
        breaker.look(self._clock.monotonic())
        return breaker.trouble_since

    def shown(self) -> dict[str, dict[str, Any]]:
        """Every route's breaker for display, as JSON would have it; `since` and `opens_at` are epoch seconds."""
        now = self._clock.monotonic()
        found: dict[str, dict[str, Any]] = {}
        for name, breaker in self._breakers.items():
            shown = breaker.shown(now)
            found[name] = {
                "state": shown.state,
                "since": None if shown.since is None else self._epoch_s(shown.since),
                "failure_share": round(shown.failure_share, 4),
                "p99_s": shown.p99_s,
                "calls": shown.calls,
                "opened": shown.opened,
                "reason": shown.reason,
                "opens_at": None if shown.opens_at is None else self._epoch_s(shown.opens_at),
            }
        return found

    def _changed(self, route: str, change: Change) -> None:
        """A breaker of ours decided something: say so."""
        if change.kind == "open":
            log.warning("breaker.opened", route=route, reason=change.reason, pause_s=change.pause_s)
        if change.kind == "closed":  # each process ramps up and closes by its own clock
            log.info("breaker.closed", route=route, reason="it held while its share grew to the whole")
            return
        at = self._changed_at[route] = self._clock.now()
        until = self._epoch_s(change.until) if change.until else 0.0
        told = _Told(route, change.kind, self._me, at, until, change.pause_s)
        self._news.publish(CHANNEL, self._encode(told).decode())

    def _heard(self, message: str) -> None:
        try:
            told = self._decode(message)
        except msgspec.DecodeError:
            return  # of a version of Tollway that speaks otherwise
        breaker = self._breakers.get(told.route)
        if breaker is None or told.by == self._me or told.at <= self._changed_at.get(told.route, 0.0):
            return
        now = self._clock.monotonic()
        until = min(self._monotonic(told.until), now + self._open_max_s)
        if told.state == "probing":
            breaker.told_probing(until)
        elif told.state == "ramping":
            self._changed_at[told.route] = told.at
            breaker.told_ramping(now)
        else:
            self._changed_at[told.route] = told.at
            if breaker.told_open(now, until, min(told.pause_s, self._open_max_s)):
                log.info("breaker.opened", route=told.route, reason="another process found it in trouble")

    def _epoch_s(self, monotonic: float) -> float:
        return self._clock.now() + monotonic - self._clock.monotonic()

    def _monotonic(self, epoch_s: float) -> float:
        return self._clock.monotonic() + epoch_s - self._clock.now()
