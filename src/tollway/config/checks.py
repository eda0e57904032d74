"""What no single value can tell: settings that contradict each other (errors) and those that are unwise (warnings)."""

import re
from collections import Counter
from collections.abc import Iterator

from tollway.config.faults import nearest, shown
from tollway.config.settings import Settings
from tollway.domain.errors import ConfigError

_BEATS_PER_LEASE = 3
_INFERENCE_PROFILE = re.compile(
    r"(?:^|/)(?:us|eu|apac|jp|au|us-gov|global)\.[a-z0-9-]+\.|:(?:application-)?inference-profile/"
)
_SLOTS_WISE_MAX = 5000


def contradictions(settings: Settings) -> list[ConfigError]:
    """Every way in which the settings cannot all be meant."""
    return [
        *_lanes(settings),
        *_worker(settings),
        *_database(settings),
        *_routes(settings),
        *_prices(settings),
        *_spend(settings),
    ]


def settings_warnings(settings: Settings) -> list[str]:
    """Sentences about settings that work but are probably not what is wanted."""
    return list(_unwise(settings))


def _lanes(settings: Settings) -> Iterator[ConfigError]:
    total = round(sum(lane.share for lane in settings.lanes.values()), 9)
    if total > 1:
        shares = ", ".join(f"{name} {lane.share:g}" for name, lane in settings.lanes.items())
        yield ConfigError("lanes.*.share", total, f"the shares may sum to 1 at most; lower one of {shares}")


def _worker(settings: Settings) -> Iterator[ConfigError]:
    worker = settings.worker
    for lane in worker.lanes:
        if lane not in settings.lanes:
            yield ConfigError("worker.lanes", lane, f"no such lane; {nearest(lane, list(settings.lanes))}")
    if len(set(worker.lanes)) < len(worker.lanes):
        yield ConfigError("worker.lanes", ", ".join(worker.lanes), "name each lane once")
    if worker.lease_ttl_s < _BEATS_PER_LEASE * worker.heartbeat_s:
        remedy = f"must be at least {_BEATS_PER_LEASE} times worker.heartbeat_s ({worker.heartbeat_s:g} s)"
        yield ConfigError("worker.lease_ttl_s", worker.lease_ttl_s, remedy + ", or a slow beat loses its runs")


def _database(settings: Settings) -> Iterator[ConfigError]:
    database = settings.database
    if database.embedded and database.direct_url:
        value = shown("", database.direct_url)
        yield ConfigError("database.direct_url", value, "belongs to an external database; leave it empty")
    if settings.redis.url:
        value = shown("", settings.redis.url)
        yield ConfigError(
            "redis.url", value, "Redis is not supported yet; leave it empty, Postgres carries the hot state"
        )


def _routes(settings: Settings) -> Iterator[ConfigError]:
    for name, uses in Counter(route.name for route in settings.routes).items():
        if uses > 1:
            yield ConfigError("routes[].name", name, f"{uses} routes have this name; give each its own")
    for index, route in enumerate(settings.routes):
        if route.provider not in settings.providers:
            known = list(settings.providers)
            hint = nearest(route.provider, known) if known else "none is configured"
            remedy = f"no such provider; {hint}; add [providers.{route.provider}]"
            yield ConfigError(f"routes[{index}].provider", route.provider, remedy)
        profile = _INFERENCE_PROFILE.search(route.model)
        if route.capacity == "provisioned" and profile is not None:
            remedy = (
                f"{route.model} is a Bedrock inference profile, which takes no provisioned throughput; "
                'name the provisioned model\'s ARN, or use capacity = "on_demand"'
            )
            yield ConfigError(f"routes[{index}].capacity", route.capacity, remedy)
    served = settings.served_tiers
    for name, tier in settings.tiers.items():
        for fallback in tier.fallback:
            if fallback not in served or fallback == name:
                known = [other for other in served if other != name]
                hint = nearest(fallback, known) if known else "there is none"
                yield ConfigError(f"tiers.{name}.fallback", fallback, f"no route serves such another tier; {hint}")
    yield from _lower_tiers(settings)
    for name, provider in settings.providers.items():
        if provider.api != "chat" and provider.kind != "openai":
            yield ConfigError(
                f"providers.{name}.api", provider.api, 'only kind = "openai" has this choice; leave it out'
            )
        if provider.api_version and provider.kind != "openai":
            remedy = 'only Azure, which is kind = "openai", has one; leave it out'
            yield ConfigError(f"providers.{name}.api_version", provider.api_version, remedy)


def _lower_tiers(settings: Settings) -> Iterator[ConfigError]:
    served = settings.served_tiers
    below = {name: tier.lower for name, tier in settings.tiers.items() if tier.lower is not None}
    for name, lower in below.items():
        if lower not in served or lower == name:
            known = [other for other in served if other != name]
            hint = nearest(lower, known) if known else "there is none"
            yield ConfigError(f"tiers.{name}.lower", lower, f"no route serves such another tier; {hint}")
            continue
        way = [name]
        while (following := below.get(way[-1])) is not None and following not in way:
            way.append(following)
        if following == name:
            circle = " > ".join((*way, name))
            yield ConfigError(f"tiers.{name}.lower", lower, f"leads back to where it began ({circle}); leave one out")


def _prices(settings: Settings) -> Iterator[ConfigError]:
    for name, prices in settings.prices.items():
        if not prices:
            yield ConfigError(f"prices.{name}", "", "is an empty list: give a price, or leave it out")
        for since, uses in Counter(price.since for price in prices).items():
            if uses > 1:
                when = "have no from" if since is None else f"begin on {since}"
                yield ConfigError(f"prices.{name}[].from", str(since or ""), f"{uses} prices {when}; one may")
        provider, slash, model = name.partition("/")
        if not slash or not model:
            yield ConfigError(f"prices.{name}", name, 'must be named "provider/model"')
        elif provider not in settings.providers:
            hint = nearest(provider, list(settings.providers)) if settings.providers else "none is configured"
            yield ConfigError(f"prices.{name}", name, f"no such provider; {hint}")


def _spend(settings: Settings) -> Iterator[ConfigError]:
    spend = settings.spend
    stated = {name: getattr(spend, name) for name in ("worst_input_usd_per_mtok", "worst_output_usd_per_mtok")}
    for name, value in stated.items():
        if spend.unknown_model == "worst" and value is None:
            yield ConfigError(f"spend.{name}", "", 'state it: unknown_model = "worst" prices unknown models at it')
        if spend.unknown_model == "refuse" and value is not None:
            yield ConfigError(
                f"spend.{name}", str(value), 'has no effect without unknown_model = "worst"; leave it out'
            )


def _unwise(settings: Settings) -> Iterator[str]:
    if settings.worker.slots > _SLOTS_WISE_MAX:
        yield (
            f"worker.slots = {settings.worker.slots}: above {_SLOTS_WISE_MAX} a process runs out of CPU first; "
            "raise worker.processes instead"
        )
    for name in settings.lanes:
        if name not in settings.worker.lanes:
            yield f"worker.lanes leaves out {name}: its runs wait for a worker configured otherwise"
    if not settings.routes:
        yield "no [[routes]] are configured: every LLM call will be refused"
    used = {route.provider for route in settings.routes}
    for name in settings.providers:
        if name not in used:
            yield f"providers.{name} is not used by any route"
    for route in settings.routes:
        if route.latency_p99_max_s >= settings.llm.timeout_s:
            yield (
                f"route {route.name}: latency_p99_max_s = {route.latency_p99_max_s:g} is not below "
                f"llm.timeout_s = {settings.llm.timeout_s:g}: calls time out before its breaker can judge them"
            )
    retention = settings.retention
    if retention.runs_days and not 0 < retention.events_days <= retention.runs_days:
        yield "retention.events_days outlasts retention.runs_days: events would be kept of runs that are gone"
    if retention.ledger_days and (not retention.runs_days or retention.ledger_days < retention.runs_days):
        yield "retention.ledger_days is shorter than retention.runs_days: runs would be kept whose money is gone"
    if settings.telemetry.otlp_endpoint:
        yield "telemetry.otlp_endpoint is set, but traces are not sent yet"
    if settings.server.host not in ("127.0.0.1", "::1", "localhost"):
        yield f"server.host = {settings.server.host}: the API is plain HTTP; put TLS in front of it"
