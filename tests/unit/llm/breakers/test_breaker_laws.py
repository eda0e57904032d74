"""What holds of a breaker whatever happens to it."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tollway.llm.breakers.breaker import PROBES_MAX, Breaker
from tollway.llm.breakers.parts import BreakerOptions, Change, Ticket

OPTIONS = BreakerOptions(calls_min=5, open_s=1.0, open_max_s=8.0, ramp_s=4.0, latency_p99_max_s=2.0)
BEFORE = {
    "closed": {"ramping"},
    "open": {"closed", "half_open", "ramping"},
    "half_open": {"open"},
    "ramping": {"open", "half_open"},
}


class AnyBreaker(RuleBasedStateMachine):
    """Calls come and go, other processes say things, and time passes, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.told: list[Change] = []
        self.breaker = Breaker(OPTIONS, self.told.append)
        self.tickets: list[Ticket] = []
        self.state = "closed"

    @initialize()
    def begin(self) -> None:
        self.seen()

    def seen(self) -> None:
        state = self.breaker.state
        if state != self.state:  # a pause and what follows it may both be over by now
            skips = {("closed", "half_open"), ("open", "ramping"), ("open", "closed"), ("ramping", "half_open")}
            assert self.state in BEFORE[state] or (self.state, state) in skips
            self.state = state

    @rule(pause_s=st.sampled_from([0.001, 0.1, 0.5, 1.0, 2.5, 9.0]))
    def time_passes(self, pause_s: float) -> None:
        self.now += pause_s

    @rule(chance=st.floats(0, 1, exclude_max=True))
    def a_call_is_wanted(self, chance: float) -> None:
        opens_at = self.breaker.opens_at
        admitted = self.breaker.admits(self.now, chance)
        if opens_at is not None and self.now < opens_at:
            assert not admitted
        if self.breaker.state == "closed":
            assert admitted
        if admitted:
            ticket = self.breaker.begin(self.now)
            assert ticket.probe == (self.breaker.state == "half_open")
            self.tickets.append(ticket)
            if ticket.probe:
                young = [one for one in self.tickets if one.probe and not one.done and one.epoch == ticket.epoch]
                assert len(young) <= PROBES_MAX
        self.seen()

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), ok=st.booleans(), tokens=st.none() | st.integers(0, 100))
    def a_call_ends(self, data: st.DataObject, ok: bool, tokens: int | None) -> None:
        ticket = data.draw(st.sampled_from(self.tickets))
        self.tickets.remove(ticket)
        self.breaker.look(self.now)
        current = ticket.epoch == self.breaker._epoch  # not of a time before it opened once more
        judged = current and ticket.probe and self.breaker.state == "half_open" and ticket.counted_s is None
        opened = self.breaker.shown(self.now).opened
        self.breaker.end(ticket, self.now, ok, tokens)
        if judged and not ok:
            assert self.breaker.state == "open"
            assert self.breaker.shown(self.now).opened == opened + 1
        if judged and ok:
            assert self.breaker.state == "ramping"
        self.seen()

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def a_call_is_dropped(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.tickets))
        self.tickets.remove(ticket)
        state = self.breaker.state
        self.breaker.drop(ticket)
        assert self.breaker.state == state

    @rule(ahead_s=st.floats(-2, 8))
    def another_opens(self, ahead_s: float) -> None:
        if self.breaker.told_open(self.now, self.now + ahead_s, 2.0):
            assert self.breaker.opens_at == self.now + ahead_s
        self.seen()

    @rule()
    def another_succeeds(self) -> None:
        said = len(self.told)
        self.breaker.told_ramping(self.now)
        assert all(change.kind != "ramping" for change in self.told[said:])
        self.seen()

    @rule(ahead_s=st.floats(0, 5))
    def another_probes(self, ahead_s: float) -> None:
        self.breaker.told_probing(self.now + ahead_s)

    @invariant()
    def it_is_sound(self) -> None:
        shown = self.breaker.shown(self.now)
        self.seen()
        assert 0 <= shown.failure_share <= 1
        assert (shown.opens_at is not None) == (shown.state == "open")
        assert shown.opens_at is None or self.now < shown.opens_at <= self.now + OPTIONS.open_max_s
        assert (self.breaker.trouble_since is None) == (shown.state == "closed")
        assert all(OPTIONS.open_s <= change.pause_s <= OPTIONS.open_max_s for change in self.told if change.pause_s)


TestAnyBreaker = AnyBreaker.TestCase
TestAnyBreaker.__doc__ = (
    "Open lets nothing through, probes are few, states follow each other as drawn, pauses are bounded."
)
TestAnyBreaker.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


@given(st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 1.99)), max_size=300))
def test_a_route_without_trouble_never_opens(calls: list[tuple[float, float]]) -> None:
    """Calls that succeed within the budget never open it, and are all admitted."""
    one, now = Breaker(OPTIONS), 0.0
    for pause_s, took_s in calls:
        now += pause_s
        assert one.admits(now, 0.999)
        ticket = one.begin(now)
        now += took_s
        one.end(ticket, now, ok=True, output_tokens=1)
    assert one.state == "closed"


@given(st.integers(0, 5_000), st.floats(1, 500))
def test_a_dead_route_opens_soon_whatever_came_before(good: int, rate: float) -> None:
    """After any number of good calls at any rate, it opens within two of its smallest spans and one bucket."""
    one, now = Breaker(BreakerOptions()), 0.0
    for _ in range(good):
        now += 1 / rate
        one.end(one.begin(now), now, ok=True)
    died = now
    while one.state == "closed":
        now += 1 / rate
        one.end(one.begin(now), now, ok=False)
        assert now - died <= 2 * 20 / rate + 1.0
