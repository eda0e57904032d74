"""What is kept of one route between exchanges: the saved-up fluid, each process' lease, the brake after refusals. Pure.

Times are seconds of the store's clock. Fluid that is not leased accrues centrally up to a small depth, so a burst
after a quiet time stays well within the vendor's bucket.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from tollway.hotstate.capacity import LEASE_TTL_S, NOTHING, FlowWant, Limits, Vector, Want

MARGIN = 0.995
"""Of a limit, what is handed out: the vendor's clock and ours drift, and an empty bucket has no room for jitter."""

DEPTH = 0.3
"""Of the vendor's burst, what is saved up centrally; the buckets of the processes hold about as much again."""

CUT = 0.7
CUT_EVERY_S = 1.0
RECOVER_PER_S = 0.05
FACTOR_MIN = 0.05
PAUSE_MAX_S = 60.0
TOLD_FOR_S = 60.0
_CLOCK_JUMP_S = 1.0


class Lease(msgspec.Struct):
    """One process' part of a route until `until`.

    `share` is its fair rate, leased as `rates` or not; `turn` and `slot_turn` are its places in the lines for single
    calls.
    """

    until: float
    rates: Vector = NOTHING
    share: Vector = NOTHING
    slots: int = 0
    slots_wanted: int = 0
    flows: tuple[FlowWant, ...] = ()
    head: Vector = NOTHING
    waiting: int = 0
    turn: float = 0.0
    slot_turn: float = 0.0


class RouteState(msgspec.Struct):
    """What all processes have in common of a route. `turn`, `slot_turn`: how far service of single calls has come."""

    at: float
    level: Vector = NOTHING
    learning_until: float = 0.0
    factor: float = 1.0
    cut_at: float = 0.0
    paused_until: float = 0.0
    told: Vector = NOTHING
    told_until: float = 0.0
    turn: float = 0.0
    slot_turn: float = 0.0
    day: int = 0
    day_used: float = 0.0


def new_state(want: Want, now: float, *, fresh: bool) -> RouteState:
    """A route seen for the first time, its bucket full; or one whose leases were lost, which has to learn of them."""
    if fresh:
        return RouteState(now, depth(want.limits, want.limits.rates, (want.call,)))
    return RouteState(now, learning_until=now + LEASE_TTL_S)


def depth(limits: Limits, rates: Vector, calls: Sequence[Vector]) -> Vector:
    """How much is saved up centrally: each of `calls` has room in any case."""
    seconds = DEPTH * limits.burst_s
    a, b, c, d = (
        max(rate * seconds, *of_calls) for rate, of_calls in zip(rates, zip(*calls, strict=True), strict=True)
    )
    return (max(a, 1.0), b, c, d)


def effective(state: RouteState, limits: Limits, now: float) -> Vector:
    """The limits that hold now: configured or told, whichever is lower, less the margin, times the brake."""
    factor = factor_at(state, now) * MARGIN
    told = state.told if now < state.told_until else NOTHING
    a, b, c, d = (
        factor * (min(own, said) if own and said else own) for own, said in zip(limits.rates, told, strict=True)
    )
    return (a, b, c, d)


def factor_at(state: RouteState, now: float) -> float:
    """The brake: it lets go steadily."""
    return min(1.0, state.factor + RECOVER_PER_S * max(0.0, now - state.cut_at))


def accrue(state: RouteState, leases: Iterable[Lease], limits: Vector, deep: Vector, now: float) -> None:
    """Bring the saved-up fluid to `now`: what of the limit was not leased, each lease counted until it ended."""
    if now < state.at - _CLOCK_JUMP_S:
        state.at = now  # the database's clock was set back
    since = state.at
    if now <= since:
        return
    state.at = now
    if now < state.learning_until:
        state.level = NOTHING
        return
    gained = [limit * (now - since) for limit in limits]
    for lease in leases:
        lasted = min(now, lease.until) - since
        if lasted > 0:
            for at, rate in enumerate(lease.rates):
                gained[at] -= rate * lasted
    a, b, c, d = (
        min(most, max(have + more, -most)) for have, more, most in zip(state.level, gained, deep, strict=True)
    )
    state.level = (a, b, c, d)


def hear(state: RouteState, want: Want, now: float) -> None:
    """Take what the vendor told a process: a refusal brakes all, at most once a second; told limits hold a minute."""
    if want.throttled_s is not None:
        if now - state.cut_at >= CUT_EVERY_S:
            state.factor = max(FACTOR_MIN, factor_at(state, now) * CUT)
            state.cut_at = now
        state.paused_until = max(state.paused_until, now + min(want.throttled_s, PAUSE_MAX_S))
        a, b, c, d = (min(level, 0.0) for level in state.level)  # the vendor's bucket is empty, so is this one
        state.level = (a, b, c, d)
    if any(want.told):
        state.told, state.told_until = want.told, now + TOLD_FOR_S


def held_by_others(leases: Mapping[int, Lease], process: int, now: float) -> Vector:
    """The rates that other processes may spend now."""
    held = [0.0, 0.0, 0.0, 0.0]
    for other, lease in leases.items():
        if other != process and lease.until > now:
            for at, rate in enumerate(lease.rates):
                held[at] += rate
    a, b, c, d = held
    return (a, b, c, d)
