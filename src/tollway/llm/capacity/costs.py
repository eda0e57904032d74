"""What a call takes of a route's limits, and on whose account. Pure."""

from typing import Literal, NamedTuple

from tollway.config import Route
from tollway.hotstate.capacity import FlowKey, Limits, Vector

Counts = Literal["max_tokens", "actual", "input"]
"""How a vendor counts output: all of `max_tokens` at the front (OpenAI), what is made (Anthropic), or not (Gemini)."""


class Flow(NamedTuple):
    """On whose account a call is made; `weight` is the tenant's."""

    lane: str
    tenant: str
    agent: str
    weight: float = 1.0

    @property
    def key(self) -> FlowKey:
        """The flow without its weight."""
        return FlowKey(self.lane, self.tenant, self.agent)


class Cost(NamedTuple):
    """Tokens a call is expected to take: input, output (rather too many), and the output it is bounded to."""

    input_tokens: int
    output_tokens: int
    max_tokens: int


def charge_of(input_tokens: float, output_tokens: float) -> Vector:
    """What a call of so many tokens takes in each dimension."""
    return (1.0, input_tokens + output_tokens, input_tokens, output_tokens)


def front_charge(cost: Cost, counts: Counts) -> Vector:
    """What is charged before a call is sent."""
    if counts == "input":
        return charge_of(cost.input_tokens, 0)
    output = cost.max_tokens if counts == "max_tokens" else min(cost.output_tokens, cost.max_tokens)
    return charge_of(cost.input_tokens, output)


def limits_of(route: Route) -> Limits:
    """The limits of a configured route, a second, its headroom taken off."""
    share = route.headroom
    rpm, tpm, tpm_in, tpm_out = (
        (limit or 0) * share / 60 for limit in (route.rpm, route.tpm, route.tpm_in, route.tpm_out)
    )
    slots = max(1, int(route.concurrency * share)) if route.concurrency else 0
    day_tokens = max(1, int(route.tpd * share)) if route.tpd else 0
    return Limits((rpm, tpm, tpm_in, tpm_out), slots, day_tokens, route.burst_s)


def limited(limits: Limits) -> bool:
    """Whether there is any limit at all."""
    return any(limits.rates) or limits.slots > 0 or limits.day_tokens > 0
