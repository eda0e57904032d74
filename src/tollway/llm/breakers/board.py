"""The breakers of all routes, or of all dependencies, in one process, of one mind with those of the other processes.

Opening, probing and success travel as news on a channel of the subject; nothing is said while nothing changes. News may
be lost: a process that missed it finds out by its own calls, and hears of the next probe.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from secrets import token_hex
from typing import Any, Self

from tollway.config import Breaker as BreakerSettings
from tollway.config import Route
from tollway.domain.clock import Clock
from tollway.domain.news import News
from tollway.llm.breakers.breaker import Breaker
from tollway.llm.breakers.news import ROUTES, Subject, Told, read_told, told_text
from tollway.llm.breakers.parts import BreakerOptions, Change
from tollway.telemetry.logs import get_logger

log = get_logger(__name__)

_BREAKERS_MAX = 1000


class BreakerBoard:
    """One breaker a name. `start` listens to the other processes; `stop` may be called twice.

    Whoever sets `on_turn` hears the name of a breaker that opened or began to serve again, by its own decision or told.
    """

    def __init__(
        self,
        options: Mapping[str, BreakerOptions],
        news: News,
        clock: Clock,
        subject: Subject = ROUTES,
        others: Callable[[str], BreakerOptions] | None = None,
    ) -> None:
        """`others` gives the options of a name that is met later, where such may be."""
        self.on_turn: Callable[[str], None] | None = None
        self._subject = subject
        self._news = news
        self._clock = clock
        self._me = token_hex(6)
        self._others = others
        self._options: dict[str, BreakerOptions] = {}
        self._breakers: dict[str, Breaker] = {}
        self._changed_at: dict[str, float] = {}
        self._unsubscribe: Callable[[], None] | None = None
        for name, how in options.items():
            self._add(name, how)

    @classmethod
    def of_routes(cls, routes: Sequence[Route], settings: BreakerSettings, news: News, clock: Clock) -> Self:
        """The board of the configured routes."""
        return cls({route.name: BreakerOptions.of(settings, route) for route in routes}, news, clock)

    def start(self) -> None:
        """Hear of the other processes' changes."""
        if self._unsubscribe is None:
            self._unsubscribe = self._news.subscribe(self._subject.channel, self._heard)

    def stop(self) -> None:
        """Hear no more."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def of(self, name: str) -> Breaker:
        """The breaker of that name; its times are the clock's monotonic seconds. Raises KeyError."""
        breaker = self._breakers.get(name)
        if breaker is None:
            if self._others is None:
                raise KeyError(name)
            breaker = self._add(name, self._others(name))
        return breaker

    def trouble_since(self, name: str) -> float | None:
        """The monotonic second since when what it guards has not been quite well; None if it is."""
        breaker = self._breakers[name]
        breaker.look(self._clock.monotonic())
        return breaker.trouble_since

    def shown(self) -> dict[str, dict[str, Any]]:
        """Every breaker for display, as JSON would have it; `since` and `opens_at` are epoch seconds."""
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

    def _changed(self, name: str, change: Change) -> None:
        """A breaker of ours decided something: say so."""
        if change.kind == "open":
            self._log(log.warning, "breaker.opened", name, reason=change.reason, pause_s=change.pause_s)
        if change.kind == "closed":  # each process ramps up and closes by its own clock
            self._log(log.info, "breaker.closed", name, reason="it held while its share grew to the whole")
            self._turned(name)
            return
        at = self._changed_at[name] = self._clock.now()
        until = self._epoch_s(change.until) if change.until else 0.0
        told = Told(name, change.kind, self._me, at, until, change.pause_s)
        self._news.publish(self._subject.channel, told_text(told))
        if change.kind != "probing":
            self._turned(name)

    def _heard(self, message: str) -> None:
        told = read_told(message)
        if told is None or told.by == self._me or told.at <= self._changed_at.get(told.name, 0.0):
            return
        if told.name not in self._breakers and self._others is None:
            return
        breaker = self.of(told.name)
        now, open_max_s = self._clock.monotonic(), self._options[told.name].open_max_s
        until = min(self._monotonic(told.until), now + open_max_s)
        if told.state == "probing":
            breaker.told_probing(until)
            return
        self._changed_at[told.name] = told.at
        if told.state == "ramping":
            breaker.told_ramping(now)
        elif breaker.told_open(now, until, min(told.pause_s, open_max_s)):
            self._log(log.info, "breaker.opened", told.name, reason="another process found it in trouble")
        self._turned(told.name)

    def _add(self, name: str, options: BreakerOptions) -> Breaker:
        """One more breaker; in the place of a closed one, where they are too many."""
        if len(self._breakers) >= _BREAKERS_MAX:
            closed = (one for one, breaker in self._breakers.items() if breaker.state == "closed")
            gone = next(closed, next(iter(self._breakers)))
            del self._breakers[gone], self._options[gone]
            self._changed_at.pop(gone, None)
        self._options[name] = options
        breaker = self._breakers[name] = Breaker(options, partial(self._changed, name))
        return breaker

    def _turned(self, name: str) -> None:
        if self.on_turn is not None:
            self.on_turn(name)

    def _log(self, say: Callable[..., None], what: str, name: str, **facts: object) -> None:
        say(what, **{self._subject.noun: name}, **facts)

    def _epoch_s(self, monotonic: float) -> float:
        return self._clock.now() + monotonic - self._clock.monotonic()

    def _monotonic(self, epoch_s: float) -> float:
        return self._clock.monotonic() + epoch_s - self._clock.now()
