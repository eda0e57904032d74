"""One exchange of one process about one route: what it wants against what all others hold and want. Pure.

A process takes at most its fair share and at most what others do not hold, so the leases never exceed the limit. A
share below about one call a second is not leased as a rate: its fluid stays central and is handed out call by call, in
turn (start-time fair queueing between processes, weighted by their shares), a little ahead of time.
"""

import math
from collections.abc import Mapping, Sequence

from tollway.hotstate.capacity import EXCHANGE_EVERY_S, LEASE_TTL_S, NOTHING, FlowKey, Grant, Later, Vector, Want
from tollway.hotstate.handouts import day_grant, slot_grant
from tollway.hotstate.route_state import Lease, RouteState, accrue, depth, effective, factor_at, hear, held_by_others
from tollway.hotstate.sharing import Leaf, divide, fill

SINGLE_BELOW = 0.9
RATE_ABOVE = 1.2
"""Calls a second of a process' share below which it leases single calls, and above which a rate."""

AHEAD_S = 0.25
"""How early the next single call in turn is promised, so that a late process loses nothing."""

SPARE_LENT = 0.5
SHORT = 0.05
SHORT_AGAIN_S = 0.06
_STALE_S = 1.6
_EPSILON = 1e-9


def exchange(
    state: RouteState, leases: Mapping[int, Lease], process: int, want: Want, now: float
) -> tuple[Lease | None, Grant]:
    """Update `state`; return the process' new lease (None when it leaves) and its grant.

    `leases` holds every lease that has not been accounted for to its end, those past `until` included.
    """
    call = _call_of(want)
    limits = effective(state, want.limits, now)
    waiting = [*want.heads[:1], *(lease.head for lease in leases.values() if lease.waiting)]
    deep = depth(want.limits, limits, (call, *waiting))
    accrue(state, leases.values(), limits, deep, now)
    hear(state, want, now)
    _take_back(state, want, deep)
    live = {other: lease for other, lease in leases.items() if lease.until > now and other != process}
    mine = leases.get(process)
    learning = now < state.learning_until
    day = day_grant(state, want, len(live) + 1, now)
    if want.leaving:
        return None, Grant(day=day)
    limits = effective(state, want.limits, now)
    share, weights, spare, content = _share(live, process, want, limits)
    heft = max(_dominant(share, limits), 1 / (len(live) + 1) if content else 0.0)
    lease = Lease(
        now + LEASE_TTL_S,
        flows=want.flows,
        head=want.heads[0] if want.heads else NOTHING,
        waiting=want.waiting,
        share=share,
        turn=mine.turn if mine and mine.waiting else max(state.turn, mine.turn if mine else 0.0),
        slot_turn=mine.slot_turn if mine else 0.0,
    )
    free = _minus(limits, held_by_others(live, process, now))
    amount, short, next_s = NOTHING, False, EXCHANGE_EVERY_S
    later: tuple[Later, ...] = ()
    if learning:
        lease.rates = _least(want.held, free)
        next_s = min(next_s, state.learning_until - now + 0.01)
    elif _by_rate(share, call, limits, mine):
        lease.rates = _least(share, free)
        amount = _draw(state, live, want, share, limits)
        short = want.waiting > 0 and any(
            got < wanted * (1 - SHORT) for got, wanted in zip(lease.rates, share, strict=True)
        )
    else:
        later, short, next_s = _singles(state, lease, live, process, want, (limits, free, heft), now)
    slots = slot_grant(state, lease, live, process, want, learning=learning)
    if short or slots.short:
        next_s = min(next_s, SHORT_AGAIN_S)
    elif lease.slots < lease.slots_wanted and want.limits.slots:
        next_s = min(next_s, AHEAD_S)
    next_s = min([next_s, *(other.until - now + 0.01 for other in live.values() if other.until - now < _STALE_S)])
    return lease, Grant(
        rates=lease.rates,
        amount=amount,
        later=later,
        share=share,
        slots=lease.slots,
        slots_single=slots.single,
        weights=weights,
        day=day,
        next_s=max(next_s, 0.01),
        spare=min(spare, slots.spare),
        saved=_calls(_unclaimed(state.level, live), call, limits) if any(lease.rates) else 0.0,
        factor=factor_at(state, now),
        paused_s=max(0.0, state.paused_until - now),
        news=short or slots.news or want.throttled_s is not None or _freed(mine, lease, live, limits),
        learning=learning,
    )


def _freed(mine: Lease | None, lease: Lease, live: Mapping[int, Lease], limits: Vector) -> bool:
    """Whether so much is given up that those who wait elsewhere should come at once."""
    if mine is None or not any(other.waiting for other in live.values()):
        return False
    held = zip(mine.rates, lease.rates, limits, strict=True)
    return any(limit > 0 and had - has > SHORT * limit for had, has, limit in held)


def _call_of(want: Want) -> Vector:
    """A usual call, no less than one request."""
    requests, *rest = want.call
    return (max(requests, 1.0), *rest)  # type: ignore[return-value]


def _take_back(state: RouteState, want: Want, deep: Vector) -> None:
    if any(want.returned):
        a, b, c, d = (
            max(level, min(level + back, most))
            for level, back, most in zip(state.level, want.returned, deep, strict=True)
        )
        state.level = (a, b, c, d)


def _share(
    live: Mapping[int, Lease], process: int, want: Want, limits: Vector
) -> tuple[Vector, dict[FlowKey, float], float, bool]:
    """The process' fair rate, the parts of the whole its flows have, the part of the limit nobody wants, and whether
    all its wants are met.

    What nobody wants is lent in part, so that a process whose demand grows need not ask first.
    """
    leaves: dict[FlowKey, Leaf] = {}
    needs: dict[FlowKey, list[float]] = {}
    rivals: dict[FlowKey, list[float]] = {}
    own = {flow.key for flow in want.flows}
    for other, flows in ((process, want.flows), *((other, lease.flows) for other, lease in live.items())):
        for flow in flows:
            key = flow.key
            need = needs.setdefault(key, [0.0, 0.0, 0.0, 0.0])
            for at, rate in enumerate(flow.rates):
                need[at] += rate
            leaves[key] = Leaf(*key, 0.0, max(flow.weight, leaves[key].weight if key in leaves else 0.0))
            if key in own and other != process:
                rivals.setdefault(key, []).append(_dominant(flow.rates, limits))
    keys = list(leaves)
    parts, usage = divide(list(leaves.values()), [needs[key] for key in keys], limits, want.lanes)
    part_of = dict(zip(keys, parts, strict=True))
    total = [0.0, 0.0, 0.0, 0.0]
    weights: dict[FlowKey, float] = {}
    content: list[FlowKey] = []
    for flow in want.flows:
        wanted, part = _dominant(flow.rates, limits), part_of[flow.key]
        if part < 1 and flow.key in rivals and wanted > 0:
            others = rivals[flow.key]
            part = fill([wanted, *others], [1.0] * (len(others) + 1), part * (wanted + sum(others)))[0] / wanted
        weights[flow.key] = max(wanted * part, _EPSILON)
        if part >= 1:
            content.append(flow.key)
        for at, rate in enumerate(flow.rates):
            total[at] += rate * part
    usual = sum(weights.values()) / max(1, len(weights))
    for key in content:  # whose want is met may want more before the next exchange, and must not be held to the old
        weights[key] = max(weights[key], usual)
    lent = SPARE_LENT / (len(live) + 1)
    a, b, c, d = (
        got + limit * max(0.0, 1 - used) * lent if limit > 0 else 0.0
        for got, limit, used in zip(total, limits, usage, strict=True)
    )
    return (a, b, c, d), weights, max(0.0, 1 - max(usage)), len(content) == len(want.flows)


def _dominant(rates: Sequence[float], limits: Vector) -> float:
    return max((rate / limit for rate, limit in zip(rates, limits, strict=True) if limit > 0), default=0.0)


def _by_rate(share: Vector, call: Vector, limits: Vector, mine: Lease | None) -> bool:
    """Whether the share is large enough to be leased as a rate; what it was sways it, lest it flutter."""
    return _calls(share, call, limits) >= (SINGLE_BELOW if mine is not None and any(mine.rates) else RATE_ABOVE)


def _calls(amount: Vector, call: Vector, limits: Vector) -> float:
    """How many usual calls an amount is."""
    dims = zip(amount, call, limits, strict=True)
    return min((have / one for have, one, limit in dims if limit > 0 and one > 0), default=0.0)


def _draw(state: RouteState, live: Mapping[int, Lease], want: Want, share: Vector, limits: Vector) -> Vector:
    """What of the saved-up fluid goes to calls that wait in this process; single calls of others come first."""
    if not any(want.backlog):
        return NOTHING
    drawn = [0.0, 0.0, 0.0, 0.0]
    level, unclaimed = list(state.level), _unclaimed(state.level, live)
    rivals = [lease for lease in live.values() if lease.waiting]
    for at, limit in enumerate(limits):
        if limit > 0:
            leased = sum(lease.share[at] for lease in rivals if any(lease.rates))
            part = share[at] / (share[at] + leased) if leased else 1.0
            drawn[at] = max(0.0, min(want.backlog[at], unclaimed[at] * part))
            level[at] -= drawn[at]
    state.level = (level[0], level[1], level[2], level[3])
    return (drawn[0], drawn[1], drawn[2], drawn[3])


def _unclaimed(level: Vector, live: Mapping[int, Lease]) -> Vector:
    """What is saved up beyond the single calls that wait for it."""
    heads = [lease.head for lease in live.values() if lease.waiting and not any(lease.rates)]
    return _minus(level, _sum(heads)) if heads else _minus(level, NOTHING)


def _singles(
    state: RouteState,
    lease: Lease,
    live: Mapping[int, Lease],
    process: int,
    want: Want,
    room: tuple[Vector, Vector, float],
    now: float,
) -> tuple[tuple[Later, ...], bool, float]:
    """Promise the next calls of the process: its turn a little ahead, anybody what is there already.

    `room` is the limits, what of them is not leased, and the process' part of the whole. Returns what is promised,
    whether too much is leased by others, and when to come again.
    """
    limits, accruing, part = room
    rivals = sorted(
        (other.turn, number, other.head) for number, other in live.items() if other.waiting and not any(other.rates)
    )
    promised: list[Later] = []
    for head in want.heads:
        ready = max(_ready_in(head, state.level, accruing, limits), state.paused_until - now)
        first = not rivals or (lease.turn, process) <= rivals[0][:2]
        if ready > (AHEAD_S if first else 0.0):
            break
        promised.append(Later(max(0.0, ready), head))
        state.level = _minus(state.level, head, signed=True)
        state.turn = max(state.turn, lease.turn)
        lease.turn += _dominant(head, limits) / max(part, _EPSILON)
    lease.waiting = max(0, want.waiting - len(promised))
    if not lease.waiting or len(promised) == len(want.heads):
        return tuple(promised), False, EXCHANGE_EVERY_S if not lease.waiting else AHEAD_S / 2
    lease.head = want.heads[len(promised)]
    before = [head for turn, number, head in rivals if (turn, number) < (lease.turn, process)]
    ahead = _sum([*before, lease.head])
    ready = max(_ready_in(ahead, state.level, accruing, limits), state.paused_until - now)
    due = _sum([lease.share, *(other.share for other in live.values() if other.waiting and not any(other.rates))])
    starved = any(got < owed * (1 - SHORT) for got, owed in zip(accruing, due, strict=True))
    return tuple(promised), starved, min(EXCHANGE_EVERY_S, max(SHORT_AGAIN_S, ready - AHEAD_S / 2))


def _ready_in(amount: Vector, level: Vector, accruing: Vector, limits: Vector) -> float:
    """Seconds until an amount has been saved up; infinite if nothing accrues. A limit of 0 is none."""
    longest = 0.0
    for wanted, have, rate, limit in zip(amount, level, accruing, limits, strict=True):
        if limit > 0 and wanted > have + _EPSILON:
            longest = max(longest, (wanted - have) / rate if rate > _EPSILON else math.inf)
    return longest


def _minus(vector: Vector, other: Vector, *, signed: bool = False) -> Vector:
    a, b, c, d = (one - two if signed else max(0.0, one - two) for one, two in zip(vector, other, strict=True))
    return (a, b, c, d)


def _least(vector: Vector, other: Vector) -> Vector:
    a, b, c, d = (min(one, two) for one, two in zip(vector, other, strict=True))
    return (a, b, c, d)


def _sum(vectors: Sequence[Vector]) -> Vector:
    a, b, c, d = (sum(column) for column in zip(*vectors, strict=True))
    return (a, b, c, d)
