"""A worker's slots between lanes: each lane's share is kept free for it, the rest is whoever's comes first."""

from collections.abc import Mapping


def room(lane: str, running: Mapping[str, int], shares: Mapping[str, float], slots: int) -> int:
    """How many more runs of `lane` may start, given what runs now (by lane) and each lane's share of the slots."""
    free = slots - sum(running.values())
    kept = sum(max(0, int(share * slots) - running.get(other, 0)) for other, share in shares.items() if other != lane)
    own = max(0, int(shares.get(lane, 0.0) * slots) - running.get(lane, 0))
    return max(0, min(free, max(own, free - kept)))
