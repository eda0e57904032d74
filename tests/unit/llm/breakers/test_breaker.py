"""When one breaker opens, probes, ramps up and closes; all in virtual time."""

import pytest

from tollway.config import Breaker as BreakerSettings
from tollway.config import Route
from tollway.llm.breakers.breaker import Breaker
from tollway.llm.breakers.parts import BreakerOptions, Change, Ticket


def breaker(**given: float) -> tuple[Breaker, list[Change]]:
    """A breaker with the default settings but for what is given, and what it tells."""
    told: list[Change] = []
    return Breaker(BreakerOptions(**given), told.append), told  # type: ignore[arg-type]


def call(one: Breaker, at: float, ok: bool = True, took_s: float = 0.05, tokens: int | None = 100) -> None:
    """A call from begin to end."""
    one.end(one.begin(at), at + took_s, ok, tokens)


def opened(at: float = 100.0, **given: float) -> tuple[Breaker, list[Change]]:
    """A breaker that 20 failures have opened at `at`."""
    one, told = breaker(**given)
    for _ in range(20):
        call(one, at, ok=False, took_s=0.0)
    assert one.state == "open"
    return one, told


def test_half_of_twenty_calls_open_it_and_nineteen_calls_do_not() -> None:
    """Nothing is concluded of fewer than `calls_min` calls; at `failure_share` of so many it opens."""
    one, told = breaker()
    for i in range(19):
        call(one, 1.0 + i / 100, ok=i < 10)
    assert one.state == "closed"
    call(one, 1.3, ok=False)
    assert (one.state, one.opens_at) == ("open", pytest.approx(3.35))
    assert [change.kind for change in told] == ["open"]
    assert told[0].reason == "10 of 20 calls failed"
    assert not one.admits(2.0, 0.0)


def test_a_third_of_failures_never_open_it() -> None:
    """A route that fails below the share stays in use, however many calls there are."""
    one, _ = breaker()
    for i in range(30_000):
        call(one, i / 300, ok=i % 3 > 0)
    assert one.state == "closed"


def test_a_route_that_dies_after_a_minute_of_good_calls_opens_at_once() -> None:
    """18,000 good calls do not hide a dead route: it opens within 2 seconds."""
    one, told = breaker()
    for i in range(18_000):
        call(one, i / 300)
    at = 60.0
    while one.state == "closed":
        at += 1 / 300
        call(one, at, ok=False, took_s=0.0)
        assert at < 62.0
    assert "failed" in told[0].reason


def test_calls_under_way_count_as_soon_as_they_take_too_long() -> None:
    """A route that hangs opens within its latency budget and a second, though no call has come to an end."""
    one, told = breaker()
    for i in range(1_000):
        call(one, i / 50)
    at, hanging = 20.0, []
    while one.admits(at, 0.5):
        hanging.append(one.begin(at))
        at += 1 / 50
        assert at < 26.0
    assert one.state == "open"
    assert told[0].reason.endswith("took longer than 5 s")
    for ticket in hanging:
        one.end(ticket, 50.0, ok=True)
    assert one.shown(50.0).p99_s == pytest.approx(30.0, rel=0.06)


def test_slow_answers_open_it_by_their_p99() -> None:
    """Of 3,000 calls a minute 0.8 % beyond the budget leave it closed, and 1.25 % open it."""
    one, _ = breaker()
    pending: list[tuple[float, Ticket]] = []
    for i in range(6_000):
        at = i / 50
        while pending and pending[0][0] <= at:
            one.end(pending.pop(0)[1], at, ok=True)
        if i % (125 if i < 4_000 else 80) == 50:
            pending.append((at + 5.5, one.begin(at)))
        else:
            call(one, at)
        if i < 4_000:
            assert one.state == "closed"
    assert one.shown(120.0).opened > 0


def test_one_slow_call_of_few_says_nothing() -> None:
    """Of fewer than a hundred calls it takes 5 %, and two at least."""
    one, _ = breaker()
    for i in range(39):
        call(one, i / 10, took_s=6.0 if i == 30 else 0.05)
    assert one.state == "closed"
    call(one, 4.0, took_s=6.0)
    assert one.state == "open"


def test_time_by_tokens() -> None:
    """With a budget a token a long answer may take long, a short one has the time of 20 tokens, a slow one counts."""
    one, told = breaker(latency_per_token_max_s=0.05)
    for i in range(100):
        call(one, i / 10, took_s=60.0, tokens=2_000)
        call(one, i / 10, took_s=0.9, tokens=1)
        call(one, i / 10, took_s=60.0, tokens=None)
    assert one.state == "closed"
    for i in range(100):
        call(one, 20 + i / 10, took_s=60.0, tokens=600)
    assert one.state == "open"
    assert told[0].reason.endswith("took longer than 0.05 s a token")


def test_a_call_that_cannot_keep_to_its_tokens_any_more_is_slow() -> None:
    """Told the bound of the output, a hanging route opens when even the longest answer would be there."""
    one, _ = breaker(latency_per_token_max_s=0.05)
    for i in range(25):
        one.begin(i / 10, output_tokens_max=100)
    one.look(4.9)
    assert one.state == "closed"
    one.look(8.0)
    assert one.state == "open"


def test_probes_few_at_a_time() -> None:
    """After the pause a share of calls probes, one at a time, and one a second however few there are."""
    one, told = opened()
    assert one.opens_at == 102.0
    assert not one.admits(101.99, 0.0)
    assert not one.admits(102.0, 0.05)
    assert one.admits(102.0, 0.049)
    probe = one.begin(102.0)
    assert told[-1] == Change("probing", until=107.0)
    assert not one.admits(102.2, 0.0)
    one.drop(probe)
    assert not one.admits(102.9, 0.9)
    assert one.admits(103.1, 0.9)
    assert one.state == "half_open"


def test_a_failed_probe_opens_it_again_for_twice_as_long() -> None:
    """Pauses double up to `open_max_s` while probes fail: by failing, by being slow, by never ending."""
    one, told = opened()
    now, pauses = 102.0, []
    for fails_how in ("failure", "slow", "hangs", "failure", "failure", "failure"):
        assert one.admits(now, 0.0)
        probe = one.begin(now)
        if fails_how == "hangs":
            one.look(now + 5.1)
        else:
            one.end(probe, now + 5.1, fails_how == "slow", 10)
        assert one.state == "open"
        assert one.opens_at is not None
        pauses.append(round(one.opens_at - now - 5.1, 6))
        now = one.opens_at
    assert pauses == [4, 8, 16, 30, 30, 30]
    assert told[-1].kind == "open"
    assert told[-1].pause_s == 30


def test_a_good_probe_lets_the_share_grow_to_the_whole() -> None:
    """One success begins the ramp at the probes' share; it has the whole after `ramp_s`, and the pause is reset."""
    one, told = opened()
    call(one, 102.0)
    assert one.state == "ramping"
    assert told[-1] == Change("ramping")
    assert one.trouble_since == 100.0
    shares = [sum(one.admits(102.05 + second, i / 1000) for i in range(1000)) / 1000 for second in range(11)]
    assert shares[0] == pytest.approx(0.05, abs=0.002)
    assert shares == sorted(shares)
    assert shares[5] == pytest.approx(0.525, abs=0.01)
    assert shares[10] == 1.0
    assert (one.state, one.pause_s, one.trouble_since) == ("closed", 0.0, None)
    assert told[-1].kind == "closed"


def test_a_relapse_opens_sooner_and_for_longer() -> None:
    """While it ramps up a quarter of `calls_min` is enough, failed and slow together; the pause goes on doubling."""
    one, _ = opened()
    call(one, 102.0)
    for at, ok, took_s in ((103.0, True, 0.1), (103.1, True, 0.1), (103.2, False, 0.1), (103.3, True, 6.0)):
        call(one, at, ok, took_s)
    assert one.state == "ramping"
    call(one, 109.4, ok=False)
    assert one.state == "open"
    assert one.opens_at == pytest.approx(109.45 + 4)


def test_calls_from_before_it_opened_say_nothing_after() -> None:
    """Calls that hung when it opened and end while it ramps up neither open it again nor close it."""
    one, _ = breaker()
    old = [one.begin(0.0) for _ in range(50)]
    one.look(5.1)
    assert one.state == "open"
    call(one, 7.2)
    for ticket in old[:25]:
        one.end(ticket, 8.0, ok=False)
    for ticket in old[25:]:
        one.end(ticket, 8.0, ok=True, output_tokens=1)
    assert one.state == "ramping"
    assert one.shown(8.0).calls == 0


def test_a_dropped_call_says_nothing_and_an_end_counts_once() -> None:
    """Cancelled calls never open it; the second end of a ticket is nothing."""
    one, _ = breaker()
    for i in range(100):
        ticket = one.begin(i / 10)
        one.drop(ticket)
        one.end(ticket, i / 10 + 7, ok=False)
    assert one.shown(50.0).calls == 0
    ticket = one.begin(50.0)
    for _ in range(30):
        one.end(ticket, 50.1, ok=False)
    assert (one.state, one.shown(50.2).calls) == ("closed", 1)


def test_time_before_a_call_is_sent_is_not_the_routes() -> None:
    """Calls that wait long between their begin and being sent are neither overdue meanwhile nor slow in the end."""
    one, _ = breaker()
    waiting = [one.begin(0.0, sent=False) for _ in range(50)]
    one.look(60.0)
    for ticket in waiting[:25]:
        one.sent(ticket, 60.0)
        one.end(ticket, 64.0, ok=True)
    one.look(64.0)
    assert (one.state, one.shown(64.0).calls) == ("closed", 25)
    for ticket in waiting[25:]:
        one.sent(ticket, 64.0)
    one.look(68.9)
    assert one.state == "closed"
    one.look(69.1)
    assert one.state == "open"


def test_a_probe_whose_caller_vanished_does_not_bar_the_way() -> None:
    """A probe that is never given back fails when it is overdue, or is forgotten after the window."""
    one, _ = opened(latency_per_token_max_s=0.05)
    assert one.admits(102.0, 0.0)
    one.begin(102.0)
    assert not one.admits(161.0, 0.0)
    assert one.admits(162.0, 0.0)


def test_others_are_believed_unless_calls_go_well_here() -> None:
    """An opening elsewhere is taken over with its end and pause; not by a process whose own calls all succeed."""
    one, told = breaker()
    assert one.told_open(10.0, until=12.0, pause_s=2.0)
    assert (one.state, one.opens_at, told) == ("open", 12.0, [])
    assert not one.told_open(10.1, until=12.1, pause_s=2.0)
    assert one.opens_at == 12.1
    other, _ = breaker()
    for i in range(100):
        call(other, 8 + i / 50)
    assert not other.told_open(10.0, until=12.0, pause_s=2.0)
    assert other.state == "closed"
    call(other, 10.0, ok=False)
    assert other.told_open(10.1, until=12.0, pause_s=2.0)
    assert not breaker()[0].told_open(10.0, until=9.0, pause_s=2.0)


def test_one_process_probes_for_all() -> None:
    """While another process probes nobody else need; its success begins the ramp here too, unless all was well."""
    one, told = opened()
    one.look(102.0)
    one.told_probing(until=107.0)
    assert not one.admits(106.9, 0.0)
    assert one.admits(107.0, 0.0)
    assert one.told_ramping(107.5)
    assert one.state == "ramping"
    assert [change.kind for change in told] == ["open"]
    assert not breaker()[0].told_ramping(1.0)


def test_its_options_are_the_settings_and_the_routes_own_budgets() -> None:
    """Every setting of `[breaker]` and both budgets of the route reach the breaker."""
    settings = BreakerSettings(window_s=30, calls_min=5, failure_share=0.4, open_s=1, open_max_s=9, ramp_s=3)
    route = Route(tier="fast", provider="p", model="m", latency_p99_max_s=2, latency_per_token_max_s=0.1)
    assert BreakerOptions.of(settings, route) == BreakerOptions(30, 5, 0.4, 1, 9, 0.05, 3, 2, 0.1)


def test_slow_readers_of_streams_open_nothing() -> None:
    """A stream is timed while the route is waited for: what its reader takes, a minute even, is not held against it."""
    one, _ = breaker()
    for i in range(50):
        ticket = one.begin(100.0 + i)
        one.rest(ticket, 100.1 + i)
        one.look(130.0 + i)
        one.go_on(ticket, 140.0 + i)
        one.rest(ticket, 140.1 + i)
        one.end(ticket, 170.0 + i, True, 100)
    assert (one.state, one.shown(220.0).p99_s) == ("closed", pytest.approx(0.1, rel=0.3))


@pytest.mark.parametrize("looked", [True, False])
def test_a_stream_that_hangs_after_its_reader_rested_is_overdue(looked: bool) -> None:
    """After a rest each further piece has the time of the first, and no more."""
    one, _ = breaker()
    tickets = [one.begin(100.0) for _ in range(20)]
    for ticket in tickets:
        one.rest(ticket, 101.0)
    if looked:
        one.look(108.0)
    for ticket in tickets:
        one.go_on(ticket, 110.0)
    one.look(114.9)
    assert one.state == "closed"
    one.look(115.1)
    assert one.state == "open"


def test_a_long_stream_is_no_slow_one() -> None:
    """Streams of a minute whose pieces come steadily open nothing; those whose first piece is late do."""
    steady, late = breaker()[0], breaker()[0]
    for i in range(30):
        ticket, now = steady.begin(100.0 + i), 100.0 + i
        for _ in range(60):
            now += 1.0
            steady.rest(ticket, now)
            steady.go_on(ticket, now)
        steady.end(ticket, now, True, 4000)
        ticket = late.begin(100.0 + i)
        late.rest(ticket, 106.0 + i)
        late.end(ticket, 106.5 + i, True, 10)
    assert (steady.state, steady.shown(200.0).p99_s) == ("closed", pytest.approx(1.0, rel=0.3))
    assert late.shown(140.0).opened > 0
