"""Prices: exact integers, the configuration first, steps and dates as the vendor has them."""

import logging
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal

import pytest
from genai_prices import Usage as VendorUsage
from genai_prices import calc_price
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.config import Price, Spend
from tollway.domain.errors import ConfigError
from tollway.domain.llm import Usage
from tollway.spend.model_price import ModelPrice, Rates
from tollway.spend.prices import Prices

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


def at(*day: int) -> float:
    """A moment of a day, in seconds since the epoch."""
    return datetime(*day, tzinfo=UTC).timestamp()  # type: ignore[arg-type,misc]


def configured(**given: object) -> ModelPrice:
    """The price that a section of the settings says."""
    one = Price.model_validate({"input_usd_per_mtok": 1, "output_usd_per_mtok": 10, **given})
    return Prices({"p/m": one}).price("p", "openai", "m", NOW.timestamp())


def test_the_latest_dated_price_that_has_begun_holds() -> None:
    """Of several prices each holds from its day to the next one's; one without a day holds before them all."""
    days = (None, date(2026, 6, 1), date(2026, 12, 1))
    several = [
        Price.model_validate({"input_usd_per_mtok": n, "output_usd_per_mtok": n, "from": day})
        for n, day in enumerate(days, 1)
    ]
    prices = Prices({"p/m": several[::-1]})
    seen = [prices.price("p", "openai", "m", at(2026, month, 1)) for month in (5, 6, 11, 12)]
    assert [price.base.input for price in seen] == [10**9, 2 * 10**9, 2 * 10**9, 3 * 10**9]
    assert [price.version for price in seen] == ["config", *["config@2026-06-01"] * 2, "config@2026-12-01"]
    assert prices.quote("p", "openai", "m", at(2026, 7, 1)).since == date(2026, 6, 1)
    changes = [prices.changes_at("p", "openai", "m", at(2026, month, 1)) for month in (5, 7, 12)]
    assert changes == [datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC), None]


def test_the_list_holds_until_the_first_dated_price() -> None:
    """Before the first of the configured days the bundled list is asked, and the day is told as the next change."""
    first = Price.model_validate({"input_usd_per_mtok": 1, "output_usd_per_mtok": 1, "from": date(2026, 12, 1)})
    prices = Prices({"p/gpt-4o-mini": [first]})
    quote = prices.quote("p", "openai", "gpt-4o-mini", NOW.timestamp())
    assert (quote.source, quote.configured) == ("genai-prices", None)
    assert prices.changes_at("p", "openai", "gpt-4o-mini", NOW.timestamp()) == datetime(2026, 12, 1, tzinfo=UTC)
    with pytest.raises(ConfigError, match="begins on or before 2026-11-01"):
        Prices({"p/own": [first]}).price("p", "openai", "own", NOW.timestamp())


def test_reasoning_tokens_have_a_price_of_their_own() -> None:
    """They are part of the output; where a price of theirs is stated, those and no others are charged at it."""
    price, plain = configured(reasoning_usd_per_mtok=2), configured()
    usage = Usage(0, 1_000_000, reasoning_tokens=400_000)
    assert price.cost_nano(usage) == (600_000 * 10 + 400_000 * 2) * 1000
    assert plain.cost_nano(usage) == 10 * 10**9
    assert price.worst_nano(0, 1_000_000) == 10 * 10**9
    assert configured(reasoning_usd_per_mtok=30).worst_nano(0, 1_000_000) == 30 * 10**9


def test_writing_to_the_cache_has_a_price() -> None:
    """It is stated by itself, for both caches; left out, it costs as any input."""
    usage = Usage(1_000_000, 0, cache_write_tokens=500_000, cache_write_long_tokens=100_000)
    dear = configured(cache_write_usd_per_mtok=3)
    assert (dear.cost_nano(usage), configured().cost_nano(usage)) == (2 * 10**9, 10**9)
    assert dear.worst_nano(1_000_000, 0) == 3 * 10**9
    assert dear.worst_nano(1_000_000, 0, caches=False) == 10**9
    assert dear.prompt_saving_nano(usage) == -(10**9)


def test_a_fee_is_reserved_and_settled_once_a_call() -> None:
    """It comes on top of the tokens, and no prompt cache saves it."""
    price = configured(per_call_usd="0.005", cached_input_usd_per_mtok="0.5")
    assert price.cost_nano(Usage()) == 5_000_000
    assert price.cost_nano(Usage(1000, 100)) == 5_000_000 + 2_000_000 == price.worst_nano(1000, 100)
    assert price.prompt_saving_nano(Usage(1000, 100, 1000)) == 500_000


def test_hours_are_shared_out_over_the_tokens_expected_of_them() -> None:
    """Every token carries its part of the hour, and the version says by what assumption."""
    hours = Price.model_validate({"usd_per_hour": 40, "mtok_per_hour": "12.5", "from": date(2026, 1, 1)})
    price = Prices({"p/m": hours}).price("p", "openai", "m", NOW.timestamp())
    assert price.version == "config@2026-01-01 (40 USD/h over 12.5 Mtok/h)"
    assert price.cost_nano(Usage(1_000_000, 1_000_000, 300_000)) == 6_400_000_000
    beside = configured(usd_per_hour=40, mtok_per_hour=10, cached_input_usd_per_mtok=0, reasoning_usd_per_mtok=1)
    rates = (beside.base.input, beside.base.output, beside.base.cached_input, beside.base.reasoning)
    assert rates == (5 * 10**9, 14 * 10**9, 4 * 10**9, 5 * 10**9)


def test_unknown_models_at_the_stated_worst_case(caplog: pytest.LogCaptureFixture) -> None:
    """Every token costs the worst that was stated, the version says so, and a log line names the model, once."""
    spend = Spend(unknown_model="worst", worst_input_usd_per_mtok=20, worst_output_usd_per_mtok=100)
    prices = Prices({"p/known": Price(input_usd_per_mtok="1", output_usd_per_mtok="1")}, spend)
    with caplog.at_level(logging.WARNING):
        for minute in range(3):
            price = prices.price("p", "openai", "mystery", NOW.timestamp() + 60 * minute)
    assert (price.version, price.cost_nano(Usage(1_000_000, 1_000_000, 900_000))) == ("worst-case", 120 * 10**9)
    assert price.worst_nano(1_000_000, 1_000_000) == 120 * 10**9
    assert [record.getMessage() for record in caplog.records].count("price.worst_case") == 1
    assert prices.price("p", "openai", "known", NOW.timestamp()).version == "config"
    assert prices.price("p", "openai", "gpt-4o-mini", NOW.timestamp()).version.startswith("genai-prices/")


RATE = st.integers(0, 10**11)


@st.composite
def model_prices(draw: st.DrawFn) -> ModelPrice:
    """Any price: rates in any order, dearer or cheaper on its steps, with a fee or without."""

    def rates() -> Rates:
        five = [draw(RATE) for _ in range(5)]
        return Rates(*five, reasoning=draw(st.none() | RATE))

    starts = draw(st.lists(st.integers(1, 600_000), max_size=3, unique=True))
    steps = tuple((start, rates()) for start in sorted(starts, reverse=True))
    return ModelPrice(rates(), "v", steps, draw(st.integers(0, 10**8)))


@given(model_prices(), TOKENS, TOKENS, st.data())
def test_no_call_of_a_size_or_below_costs_more_than_its_worst_case(
    price: ModelPrice, tokens: int, output: int, data: st.DataObject
) -> None:
    """P4: whatever a price is like, and whatever the call turns out to hold, up to the tokens that were reserved."""
    counted, said = data.draw(st.integers(0, tokens)), data.draw(st.integers(0, output))
    usage = Usage(
        counted,
        said,
        data.draw(TOKENS),
        data.draw(TOKENS),
        cache_write_tokens=data.draw(TOKENS),
        cache_write_long_tokens=data.draw(TOKENS),
    )
    assert 0 <= price.cost_nano(usage) <= price.worst_nano(tokens, output)


@given(model_prices(), TOKENS, TOKENS, TOKENS, TOKENS)
def test_what_the_prompt_cache_saved_is_the_difference(
    price: ModelPrice, tokens: int, output: int, cached: int, written: int
) -> None:
    """A call's cost and what its prompt cache saved sum to its cost without one, to the nano-dollar."""
    usage = Usage(tokens, output, cached, output // 2, cache_write_tokens=written)
    plain = Usage(tokens, output, reasoning_tokens=output // 2)
    assert price.cost_nano(usage) + price.prompt_saving_nano(usage) == price.cost_nano(plain)
