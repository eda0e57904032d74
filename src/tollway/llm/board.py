"""The routes of this process as others see them: what each did, what guards it, and which tiers live on fallback."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from tollway.config import Route
from tollway.domain.clock import Clock
from tollway.llm.fallbacks import FallbackWatch, LivingOn
from tollway.llm.guards import Guards
from tollway.llm.meter import RouteMeter, joined_facts
from tollway.telemetry.logs import get_logger

log = get_logger(__name__)

_LIMITS = ("rpm", "tpm", "tpm_in", "tpm_out", "tpd", "concurrency")
_LEASED = ("leased", "waiting", "paused_s", "opens_at")
_WORST_FIRST = ("open", "half_open", "ramping", "closed")


class _Limiter(msgspec.Struct):
    leased: dict[str, float] = {}
    waiting: int = 0


class _Breaker(msgspec.Struct):
    state: str


class _Facts(msgspec.Struct):
    """The form of what is read of a route's facts."""

    calls: int = 0
    failed: int = 0
    throttled: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    fallbacks: int = 0
    in_flight: int = 0
    latencies: list[tuple[int, int]] = []
    limiter: _Limiter | None = None
    breaker: _Breaker | None = None


class RouteBoard:
    """Meters by route. `facts` ride on the process' beat; `shown_routes` makes one view of those of all processes."""

    def __init__(self, guards: Guards, clock: Clock) -> None:
        self._guards = guards
        self._clock = clock
        self._meters: dict[str, RouteMeter] = {}
        self._fallbacks = FallbackWatch()
        self._living_on: dict[str, tuple[str, str, str]] = {}

    def meter(self, route: str) -> RouteMeter:
        """The meter of a route."""
        meter = self._meters.get(route)
        if meter is None:
            meter = self._meters[route] = RouteMeter()
        return meter

    def served(self, tier: str, instead_of: tuple[str, str] | None, by: str) -> None:
        """A call of a tier came back from the route `by`; lasting fallback is told once, and its end too."""
        if instead_of is None:
            if self._fallbacks.served(tier):
                log.info("fallback.over", tier=tier, route=by)
            return
        self._living_on[tier] = (by, *instead_of)
        if self._fallbacks.fell_back(tier, self._clock.monotonic()):
            log.warning("fallback.lasting", tier=tier, instead_of=instead_of[0], reason=instead_of[1], route=by)

    def fallback_facts(self) -> dict[str, Any]:
        """The tiers that live on fallback for long, under `fallbacks`, as JSON; nothing while there are none."""
        lasting = self._fallbacks.lasting(self._clock.monotonic())
        told = {
            tier: msgspec.to_builtins(LivingOn(round(for_s, 1), calls, *self._living_on[tier]))
            for tier, (for_s, calls) in lasting.items()
        }
        return {"fallbacks": told} if told else {}

    def facts(self) -> dict[str, Any]:
        """What there is to tell of each route, as JSON; routes at rest are left out."""
        now = self._clock.monotonic()
        breakers = self._guards.breakers.shown()
        found: dict[str, Any] = {}
        for shown in self._guards.capacity.shown():
            name = str(shown["route"])
            told: dict[str, Any] = self._meters[name].facts(now) if name in self._meters else {}
            limiter = {key: value for key in _LEASED if (value := shown[key]) not in (0, 0.0, None, {})}
            if limiter:
                told["limiter"] = limiter
            breaker = breakers.get(name)
            if breaker is not None and breaker["state"] != "closed":
                told["breaker"] = breaker
            if told:
                found[name] = told
        return found


def shown_routes(routes: Sequence[Route], told: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every configured route with what all processes tell of it; `told` are their facts.

    What another version of the code tells in a form of its own is left out.
    """
    told = list(told)
    return [_shown(route, [facts for one in told if (facts := _readable(one, route.name))]) for route in routes]


def _readable(told: object, route: str) -> Mapping[str, Any] | None:
    """What a process tells of a route, if it has the form of ours."""
    facts = told.get(route) if isinstance(told, Mapping) else None
    try:
        msgspec.convert(facts, _Facts)
    except msgspec.ValidationError:
        return None
    return facts


def tier_shares(shown: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How the calls of the last minute fall on the tiers, by what `shown_routes` made."""
    calls: dict[str, int] = {}
    for route in shown:
        calls[route["tier"]] = calls.get(route["tier"], 0) + route["used"]["requests"]
    total = sum(calls.values())
    return [
        {"tier": tier, "requests": count, "share": round(count / total, 4) if total else 0.0}
        for tier, count in calls.items()
    ]


def _shown(route: Route, told: list[Mapping[str, Any]]) -> dict[str, Any]:
    used = joined_facts(told)
    limiters = [one["limiter"] for one in told if one.get("limiter")]
    breakers = [one["breaker"] for one in told if one.get("breaker") and one["breaker"]["state"] in _WORST_FIRST]
    return {
        "name": route.name,
        "tier": route.tier,
        "provider": route.provider,
        "model": route.model,
        "region": route.region or None,
        "priority": route.priority,
        "weight": route.weight,
        "capacity": route.capacity,
        "limits": {name: value for name in _LIMITS if (value := getattr(route, name)) is not None},
        "leased": _summed([one.get("leased", {}) for one in limiters]),
        "used": {
            "requests": used["calls"],
            "input_tokens": used["input_tokens"],
            "output_tokens": used["output_tokens"],
            "tokens": used["input_tokens"] + used["output_tokens"],
        },
        "in_flight": used["in_flight"],
        "waiting": sum(int(one.get("waiting", 0)) for one in limiters),
        "breaker": _worst(breakers),
        "latency": used["latency"],
        "failed": used["failed"],
        "throttled": used["throttled"],
        "fallbacks": used["fallbacks"],
        "processes": len(told),
    }


def _summed(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = round(total.get(name, 0.0) + float(value), 3)
    return total


def _worst(breakers: list[Mapping[str, Any]]) -> dict[str, Any]:
    if not breakers:
        return {"state": "closed"}
    return {**min(breakers, key=lambda one: _WORST_FIRST.index(str(one["state"])))}
