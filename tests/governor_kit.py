"""A governor over simulated providers, its guards as a test sets them, and books that remember."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from tollway.config import Llm, Price, Provider, Route, Tier
from tollway.domain.budgets import Stood
from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import LlmError
from tollway.domain.llm import Caller, LlmRequest
from tollway.llm.calls import CallResult, Plan
from tollway.llm.capacity.costs import Cost, Flow
from tollway.llm.capacity.open import OpenLimiter
from tollway.llm.gateway import Gateway, GatewayOptions
from tollway.llm.governor import Governor, GovernorOptions
from tollway.llm.guards import Guards
from tollway.llm.retries import RetryBudgets
from tollway.simulator.provider import RunningSim, start_provider_sim
from tollway.spend.budgets import NOTHING_HELD, Standing
from tollway.spend.budgets import Hold as SpendHold
from tollway.spend.ladder import Account, standing_of
from tollway.spend.prices import Prices
from tollway.telemetry.metrics import Metrics

CALLER = Caller("acme", "standard", "triage", "triage@1", "llm")
ASK = LlmRequest("fast", [{"role": "user", "content": "Which team should answer?"}], 50)


@dataclass
class MemoryBooks:
    """Books that keep what they are told, in order, as (what, route)."""

    told: list[tuple[str, str]] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    stood: list[Stood] = field(default_factory=list)

    async def intend(self, plan: Plan) -> UUID:
        """Note it."""
        self.told.append(("intend", plan.route))
        self.plans.append(plan)
        return uuid4()

    def settle(self, plan: Plan, call_id: UUID, result: CallResult) -> None:
        """Note it."""
        self.told.append(("settle", plan.route))

    def fail(self, plan: Plan, call_id: UUID, error: LlmError | None) -> None:
        """Note it."""
        self.told.append(("cut" if error is None else error.code, plan.route))

    def stand_on(self, stood: Sequence[Stood], *, refused: bool = False) -> Sequence[Stood]:
        """Note those that are new."""
        new = [one for one in stood if one not in self.stood]
        self.stood += new
        return new

    async def hit(self, result: CallResult) -> None:
        """Note it."""
        self.told.append((result.cached, result.route))


class Hold:
    """Capacity whose end is noted by its limiter."""

    def __init__(self, ends: list[str]) -> None:
        self._ends = ends

    def settle(self, input_tokens: int, output_tokens: int) -> None:
        """Note it."""
        self._ends.append("settle")

    def failed(self) -> None:
        """Note it."""
        self._ends.append("failed")

    def release(self) -> None:
        """Note it."""
        self._ends.append("release")


@dataclass
class SetLimiter:
    """A limiter as the test sets it: `free` says whether capacity is there, `wait` how long it says the wait is."""

    free: bool = True
    wait: float = 0.0
    comes: bool = True
    ends: list[str] = field(default_factory=list)
    headroom: float = 1.0
    waiting: int = 0
    opens_at: float | None = None
    throttles: list[float | None] = field(default_factory=list)
    flows: list[Flow] = field(default_factory=list)

    def try_take(self, cost: Cost, flow: Flow) -> Hold | None:
        """Capacity, if it is set free."""
        self.flows.append(flow)
        return Hold(self.ends) if self.free else None

    async def take(self, cost: Cost, flow: Flow, deadline: float) -> Hold:
        """Capacity, if it is set to come."""
        if not self.comes:
            raise LlmError("no_capacity", "set so", retry_after_s=self.wait)
        return Hold(self.ends)

    def throttled(self, retry_after_s: float | None) -> None:
        """Note it."""
        self.throttles.append(retry_after_s)

    def wait_s(self, cost: Cost) -> float:
        """As set."""
        return self.wait

    def shown(self) -> dict[str, Any]:
        """Who waits, as set."""
        leased = {} if self.free else {"requests": 30.0}
        return {"leased": leased, "waiting": int(not self.free), "paused_s": 0.0, "opens_at": None}


class SetCapacity:
    """Limiters by route; routes not set have no limits."""

    def __init__(self, limiters: Mapping[str, SetLimiter]) -> None:
        self._limiters = dict(limiters)
        self._clock = AnchoredClock()

    def limiter(self, route: str) -> SetLimiter | OpenLimiter:
        """The limiter of a route."""
        return self._limiters.setdefault(route, OpenLimiter(route, self._clock))

    def shown(self) -> list[dict[str, Any]]:
        """All of them."""
        return [{**limiter.shown(), "route": name} for name, limiter in self._limiters.items()]


@dataclass
class SetBreaker:
    """A breaker as the test sets it."""

    shut: bool = False
    opens_at: float | None = None
    ends: list[object] = field(default_factory=list)

    @property
    def state(self) -> str:
        """As set."""
        return "open" if self.shut else "closed"

    def look(self, now: float) -> None:
        """Time passes, which is nothing here."""

    def admits(self, now: float, chance: float) -> bool:
        """As set."""
        return not self.shut

    def begin(self, now: float, output_tokens_max: int | None = None, *, sent: bool = True) -> object:
        """A ticket."""
        return self

    def sent(self, ticket: object, now: float) -> None:
        """Time begins, which is nothing here."""

    def rest(self, ticket: object, now: float) -> None:
        """Time stands still, which is nothing here."""

    def go_on(self, ticket: object, now: float) -> None:
        """Time goes on."""

    def end(self, ticket: object, now: float, ok: bool, output_tokens: int | None) -> None:
        """Note it."""
        self.ends.append(ok)

    def drop(self, ticket: object) -> None:
        """Note it."""
        self.ends.append(None)


@dataclass
class SetBudgets:
    """Implements `Budgets` with accounts as a test sets them; every call that is paid from them stands on their rungs.

    `reserve` and `settle` are the books' business: these have no money of their own.
    """

    accounts: list[Account] = field(default_factory=list)
    looks: int = 0

    def standing(self, caller: Caller) -> Standing:
        """That of the accounts whose budgets cover the caller."""
        return standing_of((one for one in self.accounts if one.budget.covers(caller)), time.time())

    async def look(self, caller: Caller) -> Standing:
        """The same."""
        self.looks += 1
        return self.standing(caller)

    async def reserve(self, caller: Caller, nano: int, patience_s: float) -> SpendHold:
        """Nothing to hold."""
        return NOTHING_HELD

    def settle(self, hold: SpendHold, spent_nano: int) -> None:
        """Nothing was held."""

    def strand(self, hold: SpendHold) -> None:
        """Nothing was held."""


class SetBreakers(dict[str, SetBreaker]):
    """Breakers by route; those not set are closed."""

    def of(self, route: str) -> SetBreaker:
        """The breaker of a route."""
        return self.setdefault(route, SetBreaker())

    def shown(self) -> dict[str, dict[str, Any]]:
        """As set."""
        return {name: {"state": "open" if one.shut else "closed"} for name, one in self.items()}


def guards(limiters: Mapping[str, Any] | None = None, breakers: Mapping[str, SetBreaker] | None = None) -> Guards:
    """Guards as set; what is not, stands open."""
    return Guards(SetCapacity(limiters or {}), SetBreakers(breakers or {}), RetryBudgets(0.2, floor_per_s=1000.0))


def route(name: str, **more: Any) -> Route:
    """A route of tier `fast`, to a model of its own name at `sim`."""
    return Route(**{"name": name, "tier": "fast", "provider": "sim", "model": name, **more})


@asynccontextmanager
async def governed(
    routes: list[Route],
    models: Mapping[str, Mapping[str, Any]] | None = None,
    guarded: Guards | None = None,
    *,
    llm: Llm | None = None,
    tiers: Mapping[str, Tier] | None = None,
    output_usd: Mapping[str, str] | None = None,
    **more: Any,
) -> AsyncIterator[tuple[Governor, RunningSim]]:
    """A governor of these routes; `models` configures the simulated provider by model.

    `output_usd` prices models that do not cost 0.60 dollars a million tokens of output; `more` are its options.
    """
    sim = await start_provider_sim({"latency_s": 0.0, "models": dict(models or {})})
    prices = {one.model: (output_usd or {}).get(one.model, "0.60") for one in routes}
    clock = AnchoredClock()
    metrics = more.pop("metrics", None) or Metrics()
    gateway = Gateway(
        routes,
        {name: Provider(kind="openai", base_url=f"{sim.url}/v1") for name in {one.provider for one in routes}},
        Prices(
            {
                f"{one.provider}/{one.model}": Price(input_usd_per_mtok="0.15", output_usd_per_mtok=prices[one.model])
                for one in routes
            }
        ),
        GatewayOptions(clock=clock, tiers=tiers or {}),
    )
    await gateway.start()
    try:
        yield Governor(gateway, guarded or guards(), metrics, GovernorOptions(llm or Llm(), clock, **more)), sim
    finally:
        await gateway.stop()
        await sim.stop()
