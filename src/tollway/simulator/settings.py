"""The simulated provider's configuration: its keys, their checks, changes at run time, and what they mean for a model.

A change is a merge: `fault_rates`, `prices` and `models` key by key, everything else whole; null puts a key back to its
default. It is checked as a whole before any of it holds.
"""

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from tollway.domain import money
from tollway.domain.errors import ConfigError
from tollway.simulator.buckets import Rates
from tollway.simulator.faults import Fault, FaultLaw
from tollway.simulator.laws import Law, LawName

_DAY_S = 86_400
_MILLION = 1_000_000
_LIMITS = frozenset(Rates._fields)
_MAPS = ("fault_rates", "prices", "models")

Seconds = Annotated[float, Meta(ge=0, le=_DAY_S)]
Tokens = Annotated[float, Meta(ge=0, le=_MILLION)]
PerMinute = Annotated[float, Meta(ge=0, le=1e12)]
Rate = Annotated[float, Meta(ge=0, le=1)]
Price = Annotated[float, Meta(ge=0, le=1e6)]

_S = TypeVar("_S", bound=msgspec.Struct)


class SecondsLaw(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A latency that varies."""

    mean: Seconds
    law: LawName = "constant"
    cv: Annotated[float, Meta(ge=0, le=100)] | None = None


class TokensLaw(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A length of answers that varies."""

    mean: Tokens
    law: LawName = "constant"
    cv: Annotated[float, Meta(ge=0, le=100)] | None = None


class FaultRates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The share of calls that each fault befalls, 0 to 1, in all at most 1."""

    status_429: Rate = 0.0
    status_500: Rate = 0.0
    slow: Rate = 0.0
    garbage: Rate = 0.0
    cut: Rate = 0.0


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Simulated list prices: 150 nano-dollars an input token, 600 an output token; cached input as any by default."""

    input_usd_per_mtok: Price = 0.15
    output_usd_per_mtok: Price = 0.60
    cached_input_usd_per_mtok: Price | None = None


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How calls are answered.

    `latency_s`: until the answer, or the first byte of a stream · `tokens_per_s`: speed of generation, on top of it
    (0: at once) · `output_tokens`: length of an answer, capped by what the request allows · `rpm`, `tpm`: limits
    (0: none); tokens are input and max_tokens, taken at the start, of the Gemini wire the input alone · `tpm_in`,
    `tpm_out`: limits of input (what is cached not counted) and of output, taken at max_tokens and put right to what was
    made · `bucket_s`: their depth in seconds of the rate · `slow_s`: what the fault `slow` adds · `cached_share`,
    `reasoning_share`: how much of the input comes from the prompt cache, how much of the output is thought.
    """

    latency_s: Seconds | SecondsLaw = 0.05
    tokens_per_s: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    output_tokens: Tokens | TokensLaw = 20
    rpm: PerMinute = 0
    tpm: PerMinute = 0
    tpm_in: PerMinute = 0
    tpm_out: PerMinute = 0
    bucket_s: Annotated[float, Meta(gt=0, le=_DAY_S)] = 1.0
    fault_rates: FaultRates = FaultRates()
    slow_s: Seconds = 10.0
    cached_share: Rate = 0.0
    reasoning_share: Rate = 0.0
    prices: Prices = Prices()


class SimSettings(ModelSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole configuration. `models` holds, by name, the keys in which a model differs; `seed` rules all chance."""

    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    models: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Profile:
    """A model's settings as the hot path wants them. `limits_of` names whose buckets it shares ("": everyone's)."""

    latency: Law
    s_per_token: float
    output_tokens: Law
    faults: FaultLaw
    slow_s: float
    cached_share: float
    reasoning_share: float
    input_nano_per_mtok: int
    output_nano_per_mtok: int
    cached_nano_per_mtok: int
    limits_of: str
    limits_key: Rates

    def cost_nano(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> int:
        """What a call of this size costs, in nano-dollars, rounded half up; the cached tokens are among the input's."""
        micro = (input_tokens - cached_tokens) * self.input_nano_per_mtok
        micro += cached_tokens * self.cached_nano_per_mtok + output_tokens * self.output_nano_per_mtok
        return (micro + _MILLION // 2) // _MILLION


class Settings:
    """A checked configuration: `document` as the user wrote it, `shown` with its defaults, and a profile per model."""

    def __init__(self, document: dict[str, Any]) -> None:
        """Raises ConfigError, naming the key, for anything that cannot be used."""
        self.document = document
        whole = _convert(document, SimSettings, "provider-sim")
        own = {key: value for key, value in document.items() if key not in ("seed", "models")}
        self.seed = whole.seed
        self.shown: dict[str, Any] = msgspec.to_builtins(whole)
        self._default = _profile(_convert(own, ModelSettings, "provider-sim"), "", "provider-sim")
        self._profiles: dict[str, Profile] = {}
        for name, keys in whole.models.items():
            where = f"models.{name}"
            settings = _convert(merged(own, keys), ModelSettings, where)
            limits_of = name if not _LIMITS.isdisjoint(keys) else ""
            self._profiles[name] = _profile(settings, limits_of, where)

    def profile(self, model: str) -> Profile:
        """How calls to `model` are answered."""
        return self._profiles.get(model, self._default)

    def profiles(self) -> list[Profile]:
        """Every profile there is, the default first."""
        return [self._default, *self._profiles.values()]

    @property
    def models(self) -> list[str]:
        """The models that have settings of their own."""
        return list(self._profiles)

    def changed(self, change: object) -> "Settings":
        """These settings with a change merged in; raises ConfigError and leaves these as they are."""
        if not isinstance(change, dict):
            raise ConfigError("provider-sim", change, "the configuration must be an object")
        return Settings(merged(self.document, change))


def merged(document: dict[str, Any], change: dict[str, Any], *, names: bool = False) -> dict[str, Any]:
    """A copy of `document` with `change` merged in; `names` says that the keys are names of models."""
    result = dict(document)
    for key, value in change.items():
        below = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and (names or key in _MAPS):
            below = below if isinstance(below, dict) else {}
            result[key] = merged(below, value, names=key == "models" and not names)
        else:
            result[key] = value
    return result


def _convert(document: dict[str, Any], kind: type[_S], where: str) -> _S:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(where, document, str(error)) from None


def _profile(settings: ModelSettings, limits_of: str, where: str) -> Profile:
    latency, length = settings.latency_s, settings.output_tokens
    prices = settings.prices
    cached = prices.cached_input_usd_per_mtok
    return Profile(
        latency=_law(latency, f"{where}.latency_s"),
        s_per_token=1 / settings.tokens_per_s if settings.tokens_per_s else 0.0,
        output_tokens=_law(length, f"{where}.output_tokens"),
        faults=_faults(settings.fault_rates, f"{where}.fault_rates"),
        slow_s=settings.slow_s,
        cached_share=settings.cached_share,
        reasoning_share=settings.reasoning_share,
        input_nano_per_mtok=money.nano(prices.input_usd_per_mtok),
        output_nano_per_mtok=money.nano(prices.output_usd_per_mtok),
        cached_nano_per_mtok=money.nano(prices.input_usd_per_mtok if cached is None else cached),
        limits_of=limits_of,
        limits_key=Rates(settings.rpm, settings.tpm, settings.tpm_in, settings.tpm_out, settings.bucket_s),
    )


def _law(given: float | SecondsLaw | TokensLaw, where: str) -> Law:
    if isinstance(given, (int, float)):
        return Law(float(given))
    try:
        return Law(given.mean, given.law, given.cv)
    except ValueError as error:
        raise ConfigError(where, msgspec.to_builtins(given), str(error)) from None


def _faults(rates: FaultRates, where: str) -> FaultLaw:
    by_name = msgspec.to_builtins(rates)
    try:
        return FaultLaw({Fault(name): rate for name, rate in by_name.items()})
    except ValueError as error:
        raise ConfigError(where, by_name, str(error)) from None
