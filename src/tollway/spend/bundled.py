"""The list that genai-prices ships, read offline: a model's price at a time, since when, and when it may change.

Only what tokens and calls decide is priced. Loading the list takes 0.8 s, so it is loaded when a model is first asked
for here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

from tollway.domain import money
from tollway.spend.model_price import ModelPrice, Rates

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo
    from genai_prices.types import ModelPrice as VendorPrice

_PER_CALL = "requests_kcount"
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Bundled:
    """A price of the list, the day it holds from (None: always), and the times after which another may."""

    price: ModelPrice
    since: date | None
    turns: tuple[datetime, ...]


def bundled(kind: str, model: str, at: datetime) -> Bundled | None:
    """The price of a vendor's model at a time (UTC); None if the list has none for its input and output tokens."""
    found = _find(kind, model)
    if found is None or not found.prices:
        return None
    vendor = found.get_prices(at)
    if vendor.input_mtok is None or vendor.output_mtok is None:
        return None
    dated = found.prices if isinstance(found.prices, list) else []
    held = [getattr(one.constraint, "start_date", None) for one in dated if one.prices is vendor]
    turns = sorted({turn for one in dated for turn in _turns(one.constraint, at)})
    return Bundled(_converted(vendor), held[0] if held else None, tuple(turns))


def bundled_window(kind: str, model: str) -> int | None:
    """The model's window in tokens, as the list has it; None if it does not say."""
    found = _find(kind, model)
    return None if found is None or found.context_window is None else int(found.context_window)


@cache
def _version() -> str:
    return f"genai-prices/{version('genai-prices')}"


def _find(kind: str, model: str) -> "ModelInfo | None":
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - takes 0.8 s, and only unpriced models need it

    try:
        return get_snapshot().find_provider_model(model, None, kind, None)[1]
    except LookupError:
        return None


def _turns(constraint: object, at: datetime) -> Iterator[datetime]:
    """When, after `at`, a constraint may begin or end to hold: a day, or times of every day."""
    begins = getattr(constraint, "start_date", None)
    if begins is not None:
        turn = datetime.combine(begins, time.min, tzinfo=UTC)
        if turn > at:
            yield turn
    for name in ("start_time", "end_time"):
        clock = getattr(constraint, name, None)
        if clock is not None:
            moment = datetime.combine(at.date(), clock if clock.tzinfo else clock.replace(tzinfo=UTC)).astimezone(UTC)
            turn = moment.replace(year=at.year, month=at.month, day=at.day)
            yield turn if turn > at else turn + _DAY


def _converted(vendor: "VendorPrice") -> ModelPrice:
    values = [value for value in vendor.__dict__.values() if hasattr(value, "tiers")]
    starts = sorted({tier.start for value in values for tier in value.tiers}, reverse=True)
    steps = tuple((start, _rates(vendor, start + 1)) for start in starts)
    thousand_calls = _rate(getattr(vendor, _PER_CALL), 0, 0)
    return ModelPrice(_rates(vendor, 0), _version(), steps, -(-thousand_calls // 1000))


def _rates(vendor: "VendorPrice", input_tokens: int) -> Rates:
    base = _rate(vendor.input_mtok, input_tokens, 0)
    write = _rate(vendor.cache_write_mtok, input_tokens, base)
    reasoning = vendor.output_reasoning_mtok
    return Rates(
        input=base,
        output=_rate(vendor.output_mtok, input_tokens, 0),
        cached_input=_rate(vendor.cache_read_mtok, input_tokens, base),
        cache_write=write,
        cache_write_long=_rate(vendor.cache_write_1h_mtok, input_tokens, write),
        reasoning=None if reasoning is None else _rate(reasoning, input_tokens, 0),
    )


def _rate(value: object, input_tokens: int, otherwise: int) -> int:
    from genai_prices.types import TieredPrices  # noqa: PLC0415 - as above

    if value is None:
        return otherwise
    if isinstance(value, TieredPrices):
        reached = [tier.price for tier in value.tiers if input_tokens > tier.start]
        return money.nano(reached[-1] if reached else value.base)
    return money.nano(value)  # type: ignore[arg-type]
