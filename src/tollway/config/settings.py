"""The settings of Tollway: one frozen tree, made once by `load_settings` and passed on explicitly.

Each model is a section of `tollway.toml`. Bounds that concern one value stand here; what concerns several is in
`checks`. Durations are seconds, sizes bytes, money US dollars per million tokens, as their names say.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from tollway.config.alerts import Alerts
from tollway.config.forms import Number, Section, env_name
from tollway.config.money import Price, Spend

EMBEDDED = "embedded"
SIM_PROVIDER = "sim"
SIM_PORT = 8701
PROVIDER_URLS = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,127}")
_PROVIDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LANE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_URL = re.compile(r"https?://[^/@\s?#]+(/[^@\s?#]*)?")
_PG_URL = re.compile(r"postgres(ql)?://\S+")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("must be 1 to 128 letters, digits or _ . : / @ -, beginning with a letter or digit")
    return text


def _provider_name(text: str) -> str:
    if not _PROVIDER_NAME.fullmatch(text):
        raise ValueError(
            "a provider's name must be 1 to 64 letters, digits, _ . or -, beginning with a letter or digit"
        )
    return text


def _lane_name(text: str) -> str:
    if not _LANE_NAME.fullmatch(text):
        raise ValueError("a lane's name must be 1 to 32 lower-case letters, digits, _ or -")
    return text


def _http_url(text: str) -> str:
    if not _URL.fullmatch(text):
        raise ValueError("must be an http:// or https:// address without credentials, query or fragment")
    return text.rstrip("/")


def _optional_http_url(text: str) -> str:
    return _http_url(text) if text else text


def _database_url(text: str) -> str:
    if text != EMBEDDED and not _PG_URL.fullmatch(text):
        raise ValueError('must be "embedded" or a postgresql:// address')
    return text


def _direct_url(text: str) -> str:
    if text and not _PG_URL.fullmatch(text):
        raise ValueError("must be empty or a postgresql:// address that does not pass a pooler")
    return text


def _some_path(value: object) -> object:
    if not str(value).strip():
        raise ValueError("must name a folder")
    return value


Name = Annotated[str, AfterValidator(_name)]
ProviderName = Annotated[str, AfterValidator(_provider_name)]
LaneName = Annotated[str, AfterValidator(_lane_name)]
Seconds = Annotated[float, Number, Field(gt=0, le=366 * 86400)]
Count = Annotated[int, Number, Field(gt=0, le=2**53)]
Days = Annotated[int, Number, Field(ge=0, le=36500)]


class Server(Section):
    """The HTTP API. Port 0 takes any free port."""

    host: str = Field(default="127.0.0.1", min_length=1)
    port: Annotated[int, Number, Field(ge=0, le=65535)] = 8700
    body_bytes_max: Annotated[int, Number, Field(ge=1024, le=2**30)] = 4_194_304
    json_depth_max: Annotated[int, Number, Field(ge=1, le=512)] = 64


class Database(Section):
    """Where the record is: `embedded` (a server of our own under `data_dir`) or an address.

    `direct_url` goes past a pooler in transaction mode and carries LISTEN; empty means `url` itself, or polling.
    """

    url: Annotated[str, AfterValidator(_database_url)] = Field(default=EMBEDDED, repr=False)
    data_dir: Annotated[Path, BeforeValidator(_some_path)] = Path(".tollway")
    direct_url: Annotated[str, AfterValidator(_direct_url)] = Field(default="", repr=False)

    @property
    def embedded(self) -> bool:
        """Whether Tollway runs the Postgres server itself."""
        return self.url == EMBEDDED


class Redis(Section):
    """The tier above Postgres for shared hot state. Empty: Postgres carries it."""

    url: str = Field(default="", repr=False)


class Worker(Section):
    """How a worker process works: `slots` runs at once, of `lanes`; its beat is `heartbeat_s`, its lease `lease_ttl_s`.

    `grace_s` is what a stopping worker gives its runs; `loop_block_max_s` what a blocked event loop is given. Of the
    slots in a lane's reach one agent of several holds `agent_share_max` at most, one tenant `tenant_share_max`. With
    `--autoscale`, a worker stops once fewer were wanted for `scale_down_after_s`.
    """

    processes: Annotated[int, Number, Field(ge=0, le=1024)] = 1
    slots: Annotated[int, Number, Field(ge=1, le=100_000)] = 1000
    lanes: Annotated[tuple[LaneName, ...], Field(min_length=1)]
    grace_s: Seconds = 30.0
    heartbeat_s: Seconds = 3.0
    lease_ttl_s: Seconds = 12.0
    loop_block_max_s: Seconds = 60.0
    scale_down_after_s: Seconds = 30.0
    agent_share_max: Annotated[float, Number, Field(gt=0, le=1)] = 0.8
    tenant_share_max: Annotated[float, Number, Field(gt=0, le=1)] = 0.8


class Lane(Section):
    """A priority class: its guaranteed `share` of slots.

    Work that has waited longer than `age_after_s` goes before other lanes' every other time. `target_wait_s` is how
    long its work should wait at most: the scaling signal wants workers for that. A submit is refused while `max_queued`
    runs are queued in it, or if it would wait longer than `max_wait_s`.
    """

    share: Annotated[float, Number, Field(ge=0, le=1)] = 0.0
    max_wait_s: Seconds | None = None
    max_queued: Annotated[int, Number, Field(ge=0, le=2**53)] | None = None
    age_after_s: Seconds = 300.0
    target_wait_s: Seconds = 10.0


class Llm(Section):
    """What holds for every LLM call that does not say otherwise.

    `timeout_s` bounds one request to a provider. A call waits for capacity `spill_after_s` before a route of a lower
    priority is used instead, and `park_after_s` before its run parks. Answers are kept `cache_ttl_s`, in memory up to
    `cache_bytes_max` a process; `wire_cache` says whether clients of the wire get them unasked. With `cache` off no
    answer is given again, whatever calls ask; without `single_flight` identical calls at once are each made. A
    provider's repeated calls are bounded by `retry_share` of its first ones.
    """

    max_tokens_default: Count = 1024
    timeout_s: Seconds = 120.0
    spill_after_s: Seconds = 1.0
    park_after_s: Seconds = 30.0
    cache: Literal["off", "exact"] = "exact"
    single_flight: bool = True
    cache_ttl_s: Seconds = 3600.0
    cache_bytes_max: Count = 64 * 1024 * 1024
    wire_cache: Literal["off", "exact"] = "off"
    retry_share: Annotated[float, Number, Field(ge=0, le=1)] = 0.2


class Breaker(Section):
    """When the breaker of a route, or of a dependency, opens, and how it closes again.

    Of the calls of the last `window_s`, at least `calls_min`, `failure_share` failed, or their p99 was above the
    route's `latency_p99_max_s`. After `open_s` (doubling up to `open_max_s` while probes fail) a `probe_share` of calls
    tries the route; once they succeed its share grows to the whole within `ramp_s`.
    """

    window_s: Seconds = 60.0
    calls_min: Count = 20
    failure_share: Annotated[float, Number, Field(gt=0, le=1)] = 0.5
    open_s: Seconds = 2.0
    open_max_s: Seconds = 30.0
    probe_share: Annotated[float, Number, Field(gt=0, le=1)] = 0.05
    ramp_s: Seconds = 10.0


class Dependency(Section):
    """What is said of a dependency that tasks name; what is left out holds as in `[breaker]`.

    It is called less often than a route, and nothing serves in its stead: fewer calls are enough to judge it, and more
    of them try it again. With `latency_p99_max_s` calls that take longer speak against it too.
    """

    window_s: Seconds | None = None
    calls_min: Count = 5
    failure_share: Annotated[float, Number, Field(gt=0, le=1)] | None = None
    open_s: Seconds | None = None
    open_max_s: Seconds | None = None
    probe_share: Annotated[float, Number, Field(gt=0, le=1)] = 0.5
    ramp_s: Seconds | None = None
    latency_p99_max_s: Seconds | None = None


class Tier(Section):
    """What more is said of a tier: the tiers that serve its calls, in order, when none of its own routes can.

    `lower` is the tier that serves its calls on the rung `lower_tier` of a budget; left out, the next cheaper one.
    """

    fallback: tuple[Name, ...] = ()
    lower: Name | None = None


class Provider(Section):
    """A vendor or a compatible server. Its key is in the environment variable `api_key_env`, or there is none.

    `base_url` may be left out for a vendor that is known by its kind, and for litellm, which knows its own;
    `api_version` goes into the address of Azure's. A server that cannot hold an answer to a JSON Schema has
    `structured = "emulated"`: the schema then goes into the prompt.
    """

    kind: Literal["openai", "anthropic", "gemini", "litellm"]
    base_url: Annotated[str, AfterValidator(_optional_http_url)] = ""
    api_key_env: Annotated[str, AfterValidator(env_name)] = Field(default="", repr=False)
    api: Literal["chat", "responses"] = "chat"
    api_version: str = ""
    structured: Literal["native", "emulated"] = "native"

    @model_validator(mode="before")
    @classmethod
    def _vendor_url(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and not raw.get("base_url") and raw.get("kind") in PROVIDER_URLS:
            return {**raw, "base_url": PROVIDER_URLS[raw["kind"]]}
        return raw


class Route(Section):
    """One way to serve a tier. Limits left out are no limits; `priority` 1 is tried before 2.

    With `latency_per_token_max_s` the breaker judges a call by its time a token of output, not by its total.
    `context_tokens` is the model's window, input and output together.
    """

    name: Name
    tier: Name
    provider: ProviderName
    model: str = Field(min_length=1, max_length=200)
    priority: Annotated[int, Number, Field(ge=1, le=1000)] = 1
    weight: Annotated[float, Number, Field(gt=0, le=1_000_000)] = 1.0
    capacity: Literal["on_demand", "provisioned"] = "on_demand"
    region: str = ""
    rpm: Count | None = None
    tpm: Count | None = None
    tpm_in: Count | None = None
    tpm_out: Count | None = None
    tpd: Count | None = None
    concurrency: Count | None = None
    burst_s: Seconds = 1.0
    headroom: Annotated[float, Number, Field(gt=0, le=1)] = 1.0
    latency_p99_max_s: Seconds = 5.0
    latency_per_token_max_s: Seconds | None = None
    context_tokens: Count | None = None
    output_tokens_max: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _own_name(cls, raw: Any) -> Any:
        """A route without a name is called by what it joins."""
        if isinstance(raw, dict) and "name" not in raw:
            return {**raw, "name": "/".join(str(raw.get(key) or "none") for key in ("tier", "provider", "model"))}
        return raw


class Retention(Section):
    """How many days are kept; 0 is for ever."""

    runs_days: Days = 30
    events_days: Days = 30
    ledger_days: Days = 0


class Telemetry(Section):
    """Logs, and where traces go."""

    otlp_endpoint: Annotated[str, AfterValidator(_optional_http_url)] = ""
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(Section):
    """All of it. `load_settings` makes one; `dependencies`, `providers`, `lanes` and `prices` are keyed by name.

    A model may have several `prices`, each from a day on.
    """

    server: Server = Server()
    database: Database = Database()
    redis: Redis = Redis()
    worker: Worker
    lanes: Mapping[LaneName, Lane]
    llm: Llm = Llm()
    breaker: Breaker = Breaker()
    dependencies: Mapping[Name, Dependency] = Field(default_factory=dict)
    tiers: Mapping[Name, Tier] = Field(default_factory=dict)
    providers: Mapping[ProviderName, Provider] = Field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    prices: Mapping[str, tuple[Price, ...]] = Field(default_factory=dict)
    spend: Spend = Spend()
    retention: Retention = Retention()
    alerts: Alerts = Alerts()
    telemetry: Telemetry = Telemetry()

    @field_validator("prices", mode="before")
    @classmethod
    def _one_price_or_several(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        return {name: [given] if isinstance(given, Mapping) else given for name, given in raw.items()}

    @property
    def simulated(self) -> bool:
        """Whether the routes are the built-in ones to the simulated provider, because none are configured."""
        return bool(self.routes) and self.routes == _SIMULATED_ROUTES

    @property
    def served_tiers(self) -> tuple[str, ...]:
        """The tiers that some route serves, in the order of the file."""
        return tuple(dict.fromkeys(route.tier for route in self.routes))


LANES: dict[str, dict[str, object]] = {
    "interactive": {"share": 0.3, "age_after_s": 10, "target_wait_s": 1},
    "standard": {"share": 0.2, "age_after_s": 60, "target_wait_s": 10},
    "batch": {"share": 0.1, "age_after_s": 300, "target_wait_s": 120},
}

# What the simulated provider charges: 150 and 600 nano-dollars a token, whatever the model.
SIMULATED: dict[str, Any] = {
    "providers": {SIM_PROVIDER: {"kind": "openai", "base_url": f"http://127.0.0.1:{SIM_PORT}/v1"}},
    "routes": [
        {"name": f"sim-{tier}", "tier": tier, "provider": SIM_PROVIDER, "model": f"sim-{tier}"}
        for tier in ("fast", "capable", "powerful")
    ],
    "prices": {
        f"{SIM_PROVIDER}/sim-{tier}": {"input_usd_per_mtok": "0.15", "output_usd_per_mtok": "0.60"}
        for tier in ("fast", "capable", "powerful")
    },
}
_SIMULATED_ROUTES = tuple(Route(**route) for route in SIMULATED["routes"])
