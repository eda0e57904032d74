"""What a token costs: prices of the configuration first, else those bundled with genai-prices, never downloaded.

Money is exact: rates are integer nano-dollars per million tokens, and a call's cost is rounded half up once, at the
end. A vendor's price steps (dearer above a number of input tokens) hold for all tokens of the call, as vendors charge.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from importlib.metadata import version
from typing import TYPE_CHECKING

from tollway.config import Price
from tollway.domain import money
from tollway.domain.errors import ConfigError
from tollway.domain.llm import Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice as VendorPrice

_MILLION = 1_000_000
_FLAT_FEES = ("requests_kcount",)


@dataclass(frozen=True, slots=True)
class Rates:
    """Nano-dollars per million tokens of each sort."""

    input: int
    output: int
    cached_input: int
    cache_write: int
    cache_write_long: int


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """The price of a model at one time. `steps` are (input tokens, rates above them), the highest first.

    `version` says where the price comes from, for the ledger.
    """

    base: Rates
    version: str
    steps: tuple[tuple[int, Rates], ...] = ()

    def rates(self, input_tokens: int) -> Rates:
        """What a call of so many input tokens pays for each of its tokens."""
        for above, rates in self.steps:
            if input_tokens > above:
                return rates
        return self.base

    def cost_nano(self, usage: Usage) -> int:
        """What the call costs, in nano-dollars, rounded half up."""
        rates = self.rates(usage.input_tokens) if self.steps else self.base
        total = usage.output_tokens * rates.output
        if not (usage.cached_tokens or usage.cache_write_tokens):
            return (total + usage.input_tokens * rates.input + _MILLION // 2) // _MILLION
        cached = min(usage.cached_tokens, usage.input_tokens)
        written = min(usage.cache_write_tokens, usage.input_tokens - cached)
        long = min(usage.cache_write_long_tokens, written)
        total += (usage.input_tokens - cached - written) * rates.input + cached * rates.cached_input
        total += (written - long) * rates.cache_write + long * rates.cache_write_long
        return (total + _MILLION // 2) // _MILLION

    def prompt_saving_nano(self, usage: Usage) -> int:
        """What the vendor's prompt cache took off the call, in nano-dollars; below 0 where writing to it cost more."""
        if not (usage.cached_tokens or usage.cache_write_tokens):
            return 0
        rates = self.rates(usage.input_tokens) if self.steps else self.base
        plain = usage.output_tokens * rates.output + usage.input_tokens * rates.input
        return (plain + _MILLION // 2) // _MILLION - self.cost_nano(usage)

    def worst_nano(self, input_tokens: int, output_tokens_max: int, *, caches: bool = True) -> int:
        """The most a call of this size can cost: its output in full, its input uncached or, if it `caches`, written."""
        rates = self.rates(input_tokens)
        dearest = max(rates.input, rates.cached_input)
        if caches:
            dearest = max(dearest, rates.cache_write, rates.cache_write_long)
        return -(-(input_tokens * dearest + output_tokens_max * rates.output) // _MILLION)


class Prices:
    """Looks prices up. Prices change at whole UTC minutes only, so one look-up serves a minute of calls."""

    def __init__(self, overrides: Mapping[str, Price]) -> None:
        """`overrides` are keyed by "provider/model", the provider's name as configured."""
        self._overrides = overrides
        self._current: dict[tuple[str, str], tuple[int, ModelPrice]] = {}

    def price(self, provider_name: str, provider_kind: str, model: str, at_s: float) -> ModelPrice:
        """The price in force at a time, seconds since the epoch. Raises ConfigError for a model that has none."""
        minute = int(at_s // 60)
        key = (provider_name, model)
        current = self._current.get(key)
        if current is not None and current[0] == minute:
            return current[1]
        price = self._find(provider_name, provider_kind, model, datetime.fromtimestamp(at_s, UTC))
        self._current[key] = (minute, price)
        return price

    def context_tokens(self, provider_name: str, provider_kind: str, model: str) -> int | None:
        """The model's window as the bundled list has it; None for a model priced in the configuration, or unknown."""
        if f"{provider_name}/{model}" in self._overrides:
            return None
        from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - takes 0.8 s

        try:
            window = get_snapshot().find_provider_model(model, None, provider_kind, None)[1].context_window
        except LookupError:
            return None
        return None if window is None else int(window)

    def _find(self, provider_name: str, provider_kind: str, model: str, at: datetime) -> ModelPrice:
        name = f"{provider_name}/{model}"
        override = self._overrides.get(name)
        if override is not None and (
            override.since is None or at >= datetime.combine(override.since, time.min, tzinfo=UTC)
        ):
            return _configured(override)
        vendor = _bundled(provider_kind, model, at)
        if vendor is None:
            begins = f" that begins on or before {at.date()}" if override is not None else ""
            raise ConfigError(
                "routes.model",
                name,
                f'its price is not known; add [prices."{name}"] with input_usd_per_mtok and output_usd_per_mtok'
                + begins,
            )
        return vendor


def _configured(price: Price) -> ModelPrice:
    base = money.nano(price.input_usd_per_mtok)
    cached = price.cached_input_usd_per_mtok
    rates = Rates(
        input=base,
        output=money.nano(price.output_usd_per_mtok),
        cached_input=base if cached is None else money.nano(cached),
        cache_write=base,
        cache_write_long=base,
    )
    return ModelPrice(rates, f"config@{price.since}" if price.since else "config")


def _bundled(kind: str, model: str, at: datetime) -> ModelPrice | None:
    """The price genai-prices ships, or None if it has none that tokens alone decide."""
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - takes 0.8 s, and only unpriced models need it

    try:
        _, found = get_snapshot().find_provider_model(model, None, kind, None)
    except LookupError:
        return None
    if not found.prices:
        return None
    vendor = found.get_prices(at)
    if vendor.input_mtok is None or vendor.output_mtok is None or any(getattr(vendor, fee) for fee in _FLAT_FEES):
        return None
    return _converted(vendor)


def _converted(vendor: "VendorPrice") -> ModelPrice:
    values = [value for value in vendor.__dict__.values() if hasattr(value, "tiers")]
    starts = sorted({tier.start for value in values for tier in value.tiers}, reverse=True)
    steps = tuple((start, _rates(vendor, start + 1)) for start in starts)
    return ModelPrice(_rates(vendor, 0), f"genai-prices/{version('genai-prices')}", steps)


def _rates(vendor: "VendorPrice", input_tokens: int) -> Rates:
    base = _rate(vendor.input_mtok, input_tokens, 0)
    write = _rate(vendor.cache_write_mtok, input_tokens, base)
    return Rates(
        input=base,
        output=_rate(vendor.output_mtok, input_tokens, 0),
        cached_input=_rate(vendor.cache_read_mtok, input_tokens, base),
        cache_write=write,
        cache_write_long=_rate(vendor.cache_write_1h_mtok, input_tokens, write),
    )


def _rate(value: object, input_tokens: int, otherwise: int) -> int:
    from genai_prices.types import TieredPrices  # noqa: PLC0415 - as above

    if value is None:
        return otherwise
    if isinstance(value, TieredPrices):
        reached = [tier.price for tier in value.tiers if input_tokens > tier.start]
        return money.nano(reached[-1] if reached else value.base)
    return money.nano(value)  # type: ignore[arg-type]
