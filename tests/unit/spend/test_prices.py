"""Prices: exact integers, the configuration first, steps and dates as the vendor has them."""

from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal

import pytest
from genai_prices import Usage as VendorUsage
from genai_prices import calc_price
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.config import Price
from tollway.domain.errors import ConfigError
from tollway.domain.llm import Usage
from tollway.spend.prices import ModelPrice, Prices, Rates

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
TOKENS = st.integers(0, 500_000)


def price(kind: str, model: str) -> ModelPrice:
    return Prices({}).price("p", kind, model, NOW.timestamp())


def test_rounds_half_up_once() -> None:
    """Halves of a nano-dollar go up, and input and output are rounded together."""
    rates = Rates(input=250_000, output=250_000, cached_input=0, cache_write=0, cache_write_long=0)
    assert ModelPrice(rates, "v").cost_nano(Usage(1, 0)) == 0
    assert ModelPrice(rates, "v").cost_nano(Usage(1, 1)) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([("openai", "gpt-4o-mini"), ("anthropic", "claude-sonnet-4-5"), ("openai", "gpt-6-luna")]),
    TOKENS, TOKENS, TOKENS, TOKENS,
)  # fmt: skip
def test_agrees_with_the_vendor_data(
    model: tuple[str, str], plain: int, cached: int, written: int, output: int
) -> None:
    """Our integers equal genai-prices' own calculation, rounded, with caches and price steps."""
    total = plain + cached + written
    theirs = calc_price(
        VendorUsage(input_tokens=total, cache_read_tokens=cached, cache_write_tokens=written, output_tokens=output),
        model_ref=model[1],
        provider_id=model[0],
        genai_request_timestamp=NOW,
    ).total_price
    ours = price(*model).cost_nano(Usage(total, output, cached, cache_write_tokens=written))
    assert ours == int((theirs * 10**9).quantize(Decimal(1), ROUND_HALF_UP))


@given(TOKENS, TOKENS, TOKENS, TOKENS)
def test_reservation_covers_the_cost(tokens: int, cached: int, written: int, output: int) -> None:
    """The worst case is at least what any mix of cached, written and plain tokens of that size costs."""
    model = price("anthropic", "claude-sonnet-4-5")
    usage = Usage(tokens, output, min(cached, tokens), cache_write_tokens=written, cache_write_long_tokens=written)
    assert model.cost_nano(usage) <= model.worst_nano(tokens, output)
    if not written:
        assert model.cost_nano(usage) <= model.worst_nano(tokens, output, caches=False)


def test_configuration_comes_first() -> None:
    """A configured price replaces the bundled one for that provider's name alone."""
    prices = Prices({"mine/gpt-4o-mini": Price(input_usd_per_mtok="1", output_usd_per_mtok="2")})
    mine = prices.price("mine", "openai", "gpt-4o-mini", NOW.timestamp())
    other = prices.price("other", "openai", "gpt-4o-mini", NOW.timestamp())
    assert (mine.cost_nano(Usage(1_000_000, 1_000_000)), mine.version) == (3_000_000_000, "config")
    assert other.version.startswith("genai-prices/")
    assert other.cost_nano(Usage(1_000_000, 0)) == 150_000_000


def test_dated_price() -> None:
    """A dated price holds from midnight UTC of its day; before it the bundled one does."""
    dated = Price.model_validate({"input_usd_per_mtok": 1, "output_usd_per_mtok": 1, "from": date(2026, 11, 2)})
    prices = Prices({"p/gpt-4o-mini": dated})
    before = prices.price("p", "openai", "gpt-4o-mini", datetime(2026, 11, 1, 23, 59, 59, tzinfo=UTC).timestamp())
    after = prices.price("p", "openai", "gpt-4o-mini", datetime(2026, 11, 2, tzinfo=UTC).timestamp())
    assert before.version.startswith("genai-prices/")
    assert after.version == "config@2026-11-02"


@pytest.mark.parametrize("model", ["no-such-model", "text-embedding-3-small", "whisper-1"])
def test_unknown_price(model: str) -> None:
    """A model without a price per input and output token is refused, and the remedy names the section to add."""
    with pytest.raises(ConfigError, match=rf'\[prices\."p/{model}"\]'):
        price("openai", model)
