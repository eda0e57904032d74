"""Which lane is claimed from first: lanes in their order, but those whose work has aged first every other time. Pure.

So a lane that others starve still moves (P7), and what goes first otherwise has half of the rounds at the least.
"""

from collections.abc import Collection, Mapping, Sequence


def aged_lanes(oldest_at: Mapping[str, float], age_after_s: Mapping[str, float], now: float) -> set[str]:
    """The lanes whose oldest runnable work, due at `oldest_at`, has waited longer than they allow. Epoch seconds."""
    return {lane for lane, at in oldest_at.items() if now - at > age_after_s.get(lane, float("inf"))}


def lane_order(lanes: Sequence[str], aged: Collection[str], turn: int) -> list[str]:
    """The lanes in the order of this turn's claims; `turn` counts the rounds that found a slot."""
    if not aged or turn % 2 == 0:
        return list(lanes)
    return [lane for lane in lanes if lane in aged] + [lane for lane in lanes if lane not in aged]
