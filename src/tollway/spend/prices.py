"""What a model costs: prices of the configuration first, else those bundled with genai-prices, never downloaded.

configured, and begun  ─▶ the latest that began            version `config@2026-01-01`, `config` without a day
else in the list       ─▶ that of its day, or time of day   version `genai-prices/1.2.3`
else                   ─▶ refused, or the stated worst case  version `worst-case`
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal

from tollway.config import Price, Spend
from tollway.domain import money
from tollway.domain.errors import ConfigError
from tollway.spend.bundled import bundled, bundled_window
from tollway.spend.model_price import ModelPrice, Rates
from tollway.telemetry.logs import get_logger

CONFIG = "config"
BUNDLED = "genai-prices"
WORST_CASE = "worst-case"

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Quote:
    """A price, its `source` (config, genai-prices or worst-case), and the day it holds from, None: always.

    `configured` is what the configuration says of it; `turns` are times after which another price may hold.
    """

    price: ModelPrice
    source: str
    since: date | None = None
    configured: Price | None = None
    turns: tuple[datetime, ...] = ()


class Prices:
    """Looks prices up. Prices change at whole UTC minutes only, so one look-up serves a minute of calls."""

    def __init__(self, overrides: Mapping[str, Price | Sequence[Price]], spend: Spend | None = None) -> None:
        """`overrides` are keyed by "provider/model", the provider's name as configured."""
        self._overrides = {
            name: (given,) if isinstance(given, Price) else tuple(given) for name, given in overrides.items()
        }
        self._worst = _worst_case(spend) if spend is not None and spend.unknown_model == "worst" else None
        self._warned: set[str] = set()
        self._current: dict[tuple[str, str], tuple[int, ModelPrice]] = {}

    def price(self, provider_name: str, provider_kind: str, model: str, at_s: float) -> ModelPrice:
        """The price in force at a time, seconds since the epoch. Raises ConfigError for a model that has none."""
        minute = int(at_s // 60)
        key = (provider_name, model)
        current = self._current.get(key)
        if current is not None and current[0] == minute:
            return current[1]
        quote = self._find(provider_name, provider_kind, model, datetime.fromtimestamp(at_s, UTC))
        if quote.source == WORST_CASE:
            self._warn(f"{provider_name}/{model}")
        self._current[key] = (minute, quote.price)
        return quote.price

    def quote(self, provider_name: str, provider_kind: str, model: str, at_s: float) -> Quote:
        """The price in force with where it comes from. Raises ConfigError for a model that has none."""
        return self._find(provider_name, provider_kind, model, datetime.fromtimestamp(at_s, UTC))

    def changes_at(self, provider_name: str, provider_kind: str, model: str, at_s: float) -> datetime | None:
        """When another price is next due, as far as anybody knows. Raises ConfigError for a model that has none."""
        at = datetime.fromtimestamp(at_s, UTC)
        now = self._find(provider_name, provider_kind, model, at)
        for turn in now.turns:
            if self._find(provider_name, provider_kind, model, turn).price != now.price:
                return turn
        return None

    def context_tokens(self, provider_name: str, provider_kind: str, model: str) -> int | None:
        """The model's window as the bundled list has it; None for a model priced in the configuration, or unknown."""
        if f"{provider_name}/{model}" in self._overrides:
            return None
        return bundled_window(provider_kind, model)

    def _find(self, provider_name: str, provider_kind: str, model: str, at: datetime) -> Quote:
        name = f"{provider_name}/{model}"
        overrides = self._overrides.get(name, ())
        begun = [price for price in overrides if price.since is None or _midnight(price.since) <= at]
        turns = sorted(_midnight(price.since) for price in overrides if price.since is not None and price not in begun)
        if begun:
            held = max(begun, key=lambda price: price.since or date.min)
            return Quote(_configured(held), CONFIG, held.since, held, tuple(turns))
        listed = bundled(provider_kind, model, at)
        if listed is not None:
            return Quote(listed.price, BUNDLED, listed.since, turns=tuple(sorted({*turns, *listed.turns})))
        if self._worst is not None:
            return Quote(self._worst, WORST_CASE, turns=tuple(turns))
        begins = f" that begins on or before {at.date()}" if overrides else ""
        raise ConfigError(
            "routes.model",
            name,
            f'its price is not known; add [prices."{name}"] with input_usd_per_mtok and output_usd_per_mtok{begins}, '
            'or have unknown models priced at a worst case: [spend] unknown_model = "worst"',
        )

    def _warn(self, name: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            log.warning("price.worst_case", model=name, remedy=f'add [prices."{name}"] with what it really costs')


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, tzinfo=UTC)


def _worst_case(spend: Spend) -> ModelPrice:
    worst = spend.worst_input_usd_per_mtok, spend.worst_output_usd_per_mtok
    tokens_in, tokens_out = (money.nano(Decimal(0) if stated is None else stated) for stated in worst)
    rates = Rates(tokens_in, tokens_out, cached_input=tokens_in, cache_write=tokens_in, cache_write_long=tokens_in)
    return ModelPrice(rates, WORST_CASE)


def _configured(price: Price) -> ModelPrice:
    share = Decimal(0)
    version = f"{CONFIG}@{price.since}" if price.since else CONFIG
    if price.usd_per_hour is not None and price.mtok_per_hour is not None:
        share = price.usd_per_hour / price.mtok_per_hour
        version += f" ({price.usd_per_hour.normalize():f} USD/h over {price.mtok_per_hour.normalize():f} Mtok/h)"
    base = money.nano(price.input_usd_per_mtok + share)

    def rate(usd_per_mtok: Decimal | None) -> int:
        return base if usd_per_mtok is None else money.nano(usd_per_mtok + share)

    reasoning = price.reasoning_usd_per_mtok
    written = rate(price.cache_write_usd_per_mtok)
    rates = Rates(
        input=base,
        output=money.nano(price.output_usd_per_mtok + share),
        cached_input=rate(price.cached_input_usd_per_mtok),
        cache_write=written,
        cache_write_long=written,
        reasoning=None if reasoning is None else money.nano(reasoning + share),
    )
    return ModelPrice(rates, version, per_call_nano=money.nano(price.per_call_usd or Decimal(0)))
