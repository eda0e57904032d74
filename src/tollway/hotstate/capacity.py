"""The seam over which processes share the limits of routes: what a process wants, what it is granted, who keeps it.

Amounts are vectors over DIMENSIONS; a rate is an amount a second, and 0 in a limit is no limit. The fluid is
conserved: what processes may spend in all is never more than limit x time and the depth of what was saved up.
"""

from typing import NamedTuple, Protocol

import msgspec

DIMENSIONS = ("requests", "tokens", "input_tokens", "output_tokens")
Vector = tuple[float, float, float, float]
NOTHING: Vector = (0.0, 0.0, 0.0, 0.0)
NEWS = "capacity"
"""The channel on which a route's name says that its leases should be looked at anew."""

LEASE_TTL_S = 3.0
EXCHANGE_EVERY_S = 1.0


class Limits(msgspec.Struct, frozen=True):
    """The limits of a route, headroom taken off: `rates` a second, `slots` calls at once, tokens a UTC day.

    `burst_s` is how many seconds of its rate the vendor's bucket surely holds.
    """

    rates: Vector = NOTHING
    slots: int = 0
    day_tokens: int = 0
    burst_s: float = 1.0


class FlowKey(NamedTuple):
    """Between whom capacity is shared fairly."""

    lane: str
    tenant: str
    agent: str


class FlowWant(msgspec.Struct, frozen=True, array_like=True):
    """What the calls of one flow want in one process: `rates` a second, and `slots` at once, those in use included."""

    lane: str
    tenant: str
    agent: str
    rates: Vector
    slots: int = 0
    weight: float = 1.0

    @property
    def key(self) -> FlowKey:
        """Whose it is."""
        return FlowKey(self.lane, self.tenant, self.agent)


class DayWant(msgspec.Struct, frozen=True):
    """Of the tokens of the UTC `day` (days since the epoch): needed at once, comfortable to have, given back."""

    day: int
    need: float = 0.0
    comfort: float = 0.0
    returned: float = 0.0


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """What one process tells of one route.

    `call` is a usual call; `heads` are the next waiting ones in turn, each less what is held for it already; `backlog`
    is all that waits, likewise. `held` is the rate it leases now, `returned` an amount it gives back. `throttled_s` is
    set after the vendor refused a call: how long it asks to wait. `told` are limits a second as the vendor tells them.
    """

    route: str
    limits: Limits
    lanes: dict[str, float]
    flows: tuple[FlowWant, ...] = ()
    call: Vector = NOTHING
    heads: tuple[Vector, ...] = ()
    waiting: int = 0
    backlog: Vector = NOTHING
    held: Vector = NOTHING
    returned: Vector = NOTHING
    slots_used: int = 0
    throttled_s: float | None = None
    told: Vector = NOTHING
    day: DayWant | None = None
    leaving: bool = False


class Later(NamedTuple):
    """An amount that may be spent `in_s` from the exchange on."""

    in_s: float
    amount: Vector


class DayGrant(NamedTuple):
    """Tokens of the UTC `day` handed out now, and what is left of the day for others to ask for."""

    day: int
    tokens: float
    left: float


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What a process may do until `ttl_s` after it asked.

    `rates` accrue on its own bucket, `amount` is its own now, `later` in time. `share` is its fair rate, leased or not.
    Of its `slots` the `slots_single` go back after one call each. `weights` are the shares of its flows. It should
    come again after `next_s`. `spare` is the part of the limit nobody wants (0 to 1), `saved` how many usual calls are
    saved up centrally. `news`: others should come.
    """

    rates: Vector = NOTHING
    amount: Vector = NOTHING
    later: tuple[Later, ...] = ()
    share: Vector = NOTHING
    slots: int = 0
    slots_single: int = 0
    weights: dict[FlowKey, float] = {}
    day: DayGrant | None = None
    ttl_s: float = LEASE_TTL_S
    next_s: float = EXCHANGE_EVERY_S
    spare: float = 1.0
    saved: float = 0.0
    factor: float = 1.0
    paused_s: float = 0.0
    news: bool = False
    learning: bool = False


class CapacityStore(Protocol):
    """Keeps who leases what. An exchange is atomic for each route."""

    async def exchange(self, process: int, wants: list[Want]) -> list[Grant]:
        """Renew, change or give up the leases of a process; one grant a want. Raises DatabaseUnavailable."""
