"""The breaker of one route: whether a call may go there now. Pure: time and chance are arguments.

    closed ──trouble──▶ open ──pause over──▶ half_open ──a probe succeeds──▶ ramping ──ramp_s──▶ closed
                         ▲                       │                              │
                         └──── a probe fails ────┴─────────── trouble ──────────┘   each time twice the pause

Times are monotonic seconds. Trouble is failures, or calls beyond the route's latency budget, which count as soon as
they exceed it, not only when they end. What ended in other states than it began in says nothing.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush

from tollway.llm.breakers.judgement import relapse, trouble
from tollway.llm.breakers.parts import BreakerOptions, Change, Shown, State, Ticket
from tollway.llm.breakers.window import Window

PROBES_MAX = 1
PROBE_EVERY_S = 1.0
_WELL_S = 2.0


class Breaker:
    """One route's breaker in one process. `on_change` hears what it decides by itself, not what it is told."""

    def __init__(self, options: BreakerOptions, on_change: Callable[[Change], None] | None = None) -> None:
        self._options = options
        self._on_change = on_change
        self._window = Window(options.window_s)
        self._state: State = "closed"
        self._since: float | None = None
        self._until = 0.0
        self._pause_s = 0.0
        self._epoch = 0
        self._under_way: list[tuple[float, int, Ticket]] = []  # a heap by when they are overdue; the done leave lazily
        self._live = 0
        self._begun = 0
        self._probes: list[Ticket] = []
        self._probed_at = 0.0
        self._held_until = 0.0
        self._trouble_since: float | None = None
        self._opened = 0
        self._reason = ""

    @property
    def state(self) -> State:
        """The state as of the last question or call."""
        return self._state

    @property
    def opens_at(self) -> float | None:
        """When an open breaker is worth asking again; None in the other states."""
        return self._until if self._state == "open" else None

    @property
    def pause_s(self) -> float:
        """The pause of the last opening; 0 once it has closed again."""
        return self._pause_s

    @property
    def trouble_since(self) -> float | None:
        """When it first opened without having quite closed since; None while all is well."""
        return self._trouble_since

    def admits(self, now: float, chance: float) -> bool:
        """Whether a call may go to the route now; `chance` is drawn from [0, 1). Call `begin` before you await.

        Half open, `probe_share` of the calls may, and one a second at least, with one under way at a time.
        """
        self.look(now)
        if self._state == "closed":
            return True
        if self._state == "open":
            return False
        if self._state == "ramping":
            return chance < self._share(now)
        self._probes = [probe for probe in self._probes if not probe.done and self._awaited(probe, now)]
        if len(self._probes) >= PROBES_MAX or now < self._held_until:
            return False
        return chance < self._options.probe_share or now >= self._probed_at + PROBE_EVERY_S

    def begin(self, now: float, output_tokens_max: int | None = None, *, sent: bool = True) -> Ticket:
        """A call goes out. Where time goes by tokens, `output_tokens_max` says when it must be over.

        One that is not sent yet is timed from `sent` on: what we take ourselves until then is not the route's doing.
        """
        self.look(now)
        probe = self._state == "half_open"
        overdue_at = now + self._options.budget_s(output_tokens_max)
        ticket = Ticket(now, overdue_at, self._epoch, probe)
        self._live += 1
        if sent:
            self._time(ticket)
        if probe:
            self._probes.append(ticket)
            self._probed_at = now
            self._tell(Change("probing", until=min(overdue_at, now + self._options.window_s)))
        return ticket

    def sent(self, ticket: Ticket, now: float) -> None:
        """A call that had begun before it was sent is sent now."""
        if not ticket.done and ticket.epoch == self._epoch:
            ticket.overdue_at += now - ticket.begun_at
            self._time(ticket)
        ticket.begun_at = now

    def rest(self, ticket: Ticket, now: float) -> None:
        """A piece of a stream is there, and it is not read on just now: what time its reader takes is its own.

        Unless time goes by tokens, a stream is judged by its first piece: a long answer is no slow one.
        """
        if ticket.rests_since is None:
            ticket.rests_since = now
        if ticket.first_s is None and self._options.latency_per_token_max_s is None:
            ticket.first_s = now - ticket.begun_at

    def go_on(self, ticket: Ticket, now: float) -> None:
        """It is read on; if it did not rest, this is nothing. Each further piece has the time of the first."""
        since, ticket.rests_since = ticket.rests_since, None
        if since is None or ticket.done:
            return
        ticket.begun_at += now - since
        ticket.overdue_at += now - since
        if ticket.first_s is not None:
            ticket.overdue_at = now + self._options.latency_p99_max_s
        if not ticket.timed and ticket.counted_s is None and ticket.epoch == self._epoch:
            self._time(ticket)

    def end(self, ticket: Ticket, now: float, ok: bool, output_tokens: int | None = None) -> None:
        """The call is over; `ok` is False only for what speaks against the route, as the caller judges."""
        self.go_on(ticket, now)
        if not self._done(ticket):
            return
        stale = ticket.epoch != self._epoch
        if stale and self._state in ("closed", "ramping"):
            return
        latency_s = now - ticket.begun_at if ticket.first_s is None else ticket.first_s
        if ticket.counted_s is not None:
            if ok:
                self._window.correct(now, ticket.counted_s, latency_s)
            return
        slow = ok and latency_s > self._options.budget_s(output_tokens)
        self._window.add(now, failed=not ok, slow=slow, latency_s=latency_s if ok else None)
        if not stale:  # else it is for display alone
            self._weigh(ticket, now, ok and not slow)

    def drop(self, ticket: Ticket) -> None:
        """The call was given up by us, and says nothing of the route."""
        self._done(ticket)

    def look(self, now: float) -> None:
        """Let time pass: calls become overdue, a pause or a ramp ends."""
        while self._under_way and self._under_way[0][0] < now:
            ticket = heappop(self._under_way)[2]
            ticket.timed = False
            if ticket.done or ticket.rests_since is not None:
                continue
            if ticket.overdue_at >= now:  # it rested for a while
                self._time(ticket)
            else:
                ticket.counted_s = (
                    self._options.latency_p99_max_s if ticket.first_s else ticket.overdue_at - ticket.begun_at
                )
                self._window.add(now, slow=True, latency_s=ticket.counted_s)
                self._weigh(ticket, now, good=False)
        if self._state == "open" and now >= self._until:
            self._enter("half_open", self._until)
            self._probed_at = self._until
        if self._state == "ramping" and now >= self._until:
            self._enter("closed", self._until)
            self._pause_s, self._trouble_since = 0.0, None
            self._tell(Change("closed"))

    def told_open(self, now: float, until: float, pause_s: float) -> bool:
        """Another process found the route in trouble. Returns whether that was news and is believed.

        It is not where calls of this process go well at the same time: then the trouble is the other's own.
        """
        self.look(now)
        if until <= now or (self._state == "closed" and self._goes_well(now)):
            return False
        if self._state == "open":
            self._until = max(self._until, until)
            return False
        self._open(now, until, pause_s, "told by another process")
        return True

    def told_ramping(self, now: float) -> bool:
        """Another process' probe succeeded. Returns whether that was news."""
        self.look(now)
        if self._state not in ("open", "half_open"):
            return False
        self._ramp(now)
        return True

    def told_probing(self, until: float) -> None:
        """Another process is trying the route, until `until` at most: no need to as well."""
        self._held_until = until

    def shown(self, now: float) -> Shown:
        """How it stands."""
        self.look(now)
        whole = self._window.whole(now)
        share = whole.failed / whole.calls if whole.calls else 0.0
        p99_s = self._window.p99_s(now)
        return Shown(
            self._state, self._since, share, p99_s, whole.calls, self._opened, self._reason, opens_at=self.opens_at
        )

    def _time(self, ticket: Ticket) -> None:
        """See that the call counts as soon as it is overdue."""
        if len(self._under_way) > 2 * self._live + 64:
            self._under_way = [item for item in self._under_way if not item[2].done]
            heapify(self._under_way)
        self._begun += 1
        ticket.timed = True
        heappush(self._under_way, (ticket.overdue_at, self._begun, ticket))

    def _done(self, ticket: Ticket) -> bool:
        if ticket.done:
            return False
        ticket.done = True
        if ticket.epoch == self._epoch:
            self._live -= 1
        return True

    def _weigh(self, ticket: Ticket, now: float, good: bool) -> None:
        """Draw the conclusion from a call that has just been counted."""
        if ticket.probe and self._state == "half_open":
            if good:
                self._ramp(now)
                self._tell(Change("ramping"))
            else:
                self._trip(now, "a probe failed")
        elif not good and self._state in ("closed", "ramping"):
            judge = trouble if self._state == "closed" else relapse
            if reason := judge(self._window, self._options, now):
                self._trip(now, reason)

    def _goes_well(self, now: float) -> bool:
        lately = self._window.since(now, _WELL_S)
        return lately.calls >= self._options.calls_min and not lately.failed and not lately.slow

    def _trip(self, now: float, reason: str) -> None:
        """Open by our own decision."""
        longer = self._pause_s * 2 if self._pause_s else self._options.open_s
        pause_s = min(longer, self._options.open_max_s)
        self._open(now, now + pause_s, pause_s, reason)
        self._tell(Change("open", self._until, pause_s, reason))

    def _open(self, now: float, until: float, pause_s: float, reason: str) -> None:
        self._enter("open", now)
        self._anew()
        self._until = until
        self._pause_s = pause_s
        self._held_until = 0.0
        self._reason = reason
        self._opened += 1
        if self._trouble_since is None:
            self._trouble_since = now

    def _ramp(self, now: float) -> None:
        self._enter("ramping", now)
        self._anew()
        self._until = now + self._options.ramp_s
        self._window.clear()

    def _enter(self, state: State, since: float) -> None:
        self._state = state
        self._since = since

    def _anew(self) -> None:
        """Calls that began before now say nothing of the route any more."""
        self._epoch += 1
        self._under_way.clear()
        self._live = 0
        self._probes.clear()

    def _share(self, now: float) -> float:
        first = self._options.probe_share
        return 1 - (1 - first) * (self._until - now) / self._options.ramp_s

    def _awaited(self, probe: Ticket, now: float) -> bool:
        return now < probe.begun_at + self._options.window_s

    def _tell(self, change: Change) -> None:
        if self._on_change is not None:
            self._on_change(change)
