"""The limits that are handed out piece by piece: calls at once, and tokens of a day. Pure.

Slots are divided max-min into whole numbers. What the division leaves over, all of it where slots are fewer than
processes, is lent for one call each, to whoever is next in turn. Slices of a day shrink as its end comes near.
"""

from collections.abc import Mapping
from typing import NamedTuple

from tollway.hotstate.capacity import DayGrant, FlowKey, FlowWant, Want
from tollway.hotstate.route_state import Lease, RouteState
from tollway.hotstate.sharing import Leaf, Tree, fill

DAY_S = 86_400
_DAY_SLICES = 8
_SHARE_MIN = 1e-3
_WHOLE = 1e-6


class SlotHandout(NamedTuple):
    """`single` slots of the lease go back after a call each; `short`: others hold too many; `news`: some came free.

    `spare` is the part of the slots nobody wants.
    """

    single: int = 0
    short: bool = False
    news: bool = False
    spare: float = 1.0


def slot_grant(
    state: RouteState, lease: Lease, live: Mapping[int, Lease], process: int, want: Want, *, learning: bool
) -> SlotHandout:
    """Set the lease's slots: never fewer than are in use, and together never more than the limit beyond those."""
    limit, used = want.limits.slots, want.slots_used
    wanted = lease.slots_wanted = max(used, sum(flow.slots for flow in want.flows))
    if not limit:
        return SlotHandout()
    free = max(0, limit - sum(other.slots for other in live.values()))
    if learning:
        lease.slots = used
        return SlotHandout(used)
    waiting = any(other.slots_wanted > other.slots for other in live.values())
    total = wanted + sum(other.slots_wanted for other in live.values())
    if total <= limit:
        lent = (limit - total) // (2 * (len(live) + 1))
        lease.slots = max(used, min(wanted + lent, free))
        spare = (limit - total) / limit
        return SlotHandout(0, lease.slots < wanted, waiting and free > lease.slots, spare)
    shares = _slot_shares({process: want.flows, **{other: held.flows for other, held in live.items()}}, want, limit)
    whole = {number: int(share + _WHOLE) for number, share in shares.items()}
    firm = max(used, min(whole[process], free, wanted))
    loose = limit - sum(whole.values())
    loose -= sum(max(0, other.slots - whole[number]) for number, other in live.items())
    loose = min(loose - max(0, firm - whole[process]), free - firm)
    lease.slot_turn = max(lease.slot_turn, state.slot_turn) if wanted <= used else lease.slot_turn or state.slot_turn
    rivals = sorted(
        (other.slot_turn, number)
        for number, other in live.items()
        if other.slots_wanted > max(other.slots, whole[number])
    )
    single = 0
    while firm + single < wanted and loose - single > sum(rival < (lease.slot_turn, process) for rival in rivals):
        state.slot_turn = max(state.slot_turn, lease.slot_turn)
        content = shares[process] >= wanted - _WHOLE
        fair = limit / (len(live) + 1) if content else 0.0
        lease.slot_turn += 1 / max(shares[process], fair, _SHARE_MIN)
        single += 1
    lease.slots = firm + single
    short = lease.slots < wanted and free < min(whole[process], wanted)
    return SlotHandout(max(0, lease.slots - whole[process]), short, waiting and free > lease.slots, 0.0)


def _slot_shares(flows: Mapping[int, tuple[FlowWant, ...]], want: Want, limit: int) -> dict[int, float]:
    """Each process' part of the slots, by the same tree as the rates."""
    wants: dict[FlowKey, dict[int, float]] = {}
    weights: dict[FlowKey, float] = {}
    for process, told in flows.items():
        for flow in told:
            wants.setdefault(flow.key, {})[process] = float(flow.slots)
            weights[flow.key] = max(flow.weight, weights.get(flow.key, 0.0))
    leaves = [Leaf(*key, sum(by.values()), weights[key]) for key, by in wants.items()]
    shares = dict.fromkeys(flows, 0.0)
    for by, share in zip(wants.values(), Tree(leaves, want.lanes).fill(float(limit)), strict=True):
        for process, part in zip(by, fill(list(by.values()), [1.0] * len(by), share), strict=True):
            shares[process] += part
    return shares


def day_grant(state: RouteState, want: Want, processes: int, now: float) -> DayGrant | None:
    """A slice of the tokens of the UTC day: what is needed at once, or a fair part of what is left."""
    limit, ask = want.limits.day_tokens, want.day
    if not limit or ask is None:
        return None
    today = int(now // DAY_S)
    if state.day != today:
        state.day, state.day_used = today, 0.0
    if ask.day == today:
        state.day_used = max(0.0, state.day_used - ask.returned)
    left = max(0.0, limit - state.day_used)
    tokens = max(ask.need, min(ask.comfort, left / (_DAY_SLICES * processes)))
    if tokens > left or want.leaving:
        tokens = 0.0
    state.day_used += tokens
    return DayGrant(today, tokens, left - tokens)
