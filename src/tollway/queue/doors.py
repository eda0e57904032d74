"""Doors before the claim: how many more runs of a class may start here, as what they need shuts and opens. Pure.

    open ──trouble──▶ shut ──▶ trial ──it serves──▶ easing ──EASE_S──▶ open
                       ▲  └──────────────────────────▶│
                       └──────── trouble ─────────────┘

Shut: nobody. Trial: two, and one more a second, to find out. Easing: four, twice as many each half second, so that what
waited comes back with no herd. Times are monotonic seconds.
"""

import math
from typing import Literal

DoorState = Literal["open", "shut", "trial", "easing"]

TRIALS = 2
TRIAL_EVERY_S = 1.0
EASE_FIRST = 4
EASE_DOUBLES_S = 0.5
EASE_S = 5.0
LEARN = 0.1
USUAL = 0.5
REOPEN = 0.8
"""A tier that was too slow is tried again when its wait is this part of what is borne."""

_AGENTS_MAX = 10_000


class Door:
    """One door of a process; it learns how things stand by `see`, and who went through by `took`."""

    __slots__ = ("_since", "_taken", "state")

    def __init__(self) -> None:
        self.state: DoorState = "open"
        self._since = 0.0
        self._taken = 0

    def see(self, state: DoorState, now: float) -> None:
        """How things stand now. Easing ends by itself."""
        if state == self.state:
            return
        if state == "easing" and self.state == "open":
            return
        self.state, self._since, self._taken = state, now, 0

    def took(self, runs: int) -> None:
        """So many runs went through."""
        self._taken += runs

    def room(self, now: float) -> int | None:
        """How many more may go; None: any number."""
        passed_s = now - self._since
        if self.state == "easing" and passed_s >= EASE_S:
            self.state = "open"
        if self.state == "open":
            return None
        if self.state == "shut":
            return 0
        if self.state == "trial":
            return max(0, min(TRIALS, TRIALS + int(passed_s / TRIAL_EVERY_S) - self._taken))
        return max(0, int(EASE_FIRST * 2 ** (passed_s / EASE_DOUBLES_S)) - self._taken)


def tier_state(door: Door, wait_s: float, bound_s: float, *, sound: bool, waited_for: bool) -> DoorState:
    """How a tier's door should stand when a usual call would wait so long for capacity, and `bound_s` is borne.

    `sound`: some route is not only being tried again. Where nobody waits here, a forecast of a long wait may be an old
    one, so somebody is let in to find out (`waited_for` False).
    """
    if wait_s == math.inf:
        return "shut"
    if wait_s > (bound_s if door.state in ("open", "easing") else REOPEN * bound_s):
        return "shut" if waited_for else "trial"
    if not sound:
        return "trial"
    return "open" if door.state == "open" else "easing"


class Habits:
    """Which tier the runs of an agent ask first, learned from those that began here and forgotten as they change."""

    def __init__(self) -> None:
        self._shares: dict[str, dict[str, float]] = {}

    def ended(self, agent: str, tier: str | None) -> None:
        """A run that began here asked this tier first, or none."""
        shares = self._shares.get(agent)
        if shares is None:
            if len(self._shares) >= _AGENTS_MAX:
                del self._shares[next(iter(self._shares))]
            self._shares[agent] = {} if tier is None else {tier: 1.0}
            return
        for known in list(shares):
            shares[known] *= 1 - LEARN
            if shares[known] < LEARN / 10:
                del shares[known]
        if tier is not None:
            shares[tier] = shares.get(tier, 0.0) + LEARN

    def tier(self, agent: str) -> str | None:
        """What at least every other run of it asks first; None if there is no such tier, or nothing is known."""
        return next((tier for tier, share in self._shares.get(agent, {}).items() if share >= USUAL), None)
