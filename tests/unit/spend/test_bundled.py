"""Every model of the bundled list that we can price costs what genai-prices itself calculates."""

import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

import pytest
from genai_prices import Usage as VendorUsage
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo

from tollway.domain.llm import Usage
from tollway.spend.bundled import Bundled, bundled

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
MODELS = [(provider.id, model.id) for provider in get_snapshot().providers for model in provider.models]


def listed(provider: str, model: str) -> ModelInfo | None:
    """The model that the list finds under this name; it does not find all of its own."""
    try:
        return get_snapshot().find_provider_model(model, None, provider, None)[1]
    except LookupError:
        return None


def days_of(model: ModelInfo) -> list[date | None]:
    """The days from which the prices of a model hold; none where it has one price."""
    several = model.prices if isinstance(model.prices, list) else []
    return [getattr(one.constraint, "start_date", None) for one in several]


def usages(draw: random.Random) -> list[Usage]:
    """Calls of all sizes: plain, cached, written to either cache, with reasoning; on every step there may be."""
    found = [Usage(1, 1)]
    for size in (150_000, 600_000):
        total, output = draw.randrange(size // 2, size), draw.randrange(20_000)
        cached = draw.randrange(total // 2)
        written = draw.randrange(total // 2)
        long, reasoning = draw.randrange(written + 1), draw.randrange(output + 1)
        found += [
            Usage(total, output),
            Usage(total, output, cached, reasoning),
            Usage(total, output, cached, cache_write_tokens=written, cache_write_long_tokens=long),
        ]
    return found


def theirs(provider: str, model: str, usage: Usage) -> int:
    """What genai-prices says that a call costs, in nano-dollars."""
    counted = VendorUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cache_write_1h_tokens=usage.cache_write_long_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
    )
    price = calc_price(counted, model_ref=model, provider_id=provider, genai_request_timestamp=NOW).total_price
    return int((price * 10**9).quantize(Decimal(1), ROUND_HALF_UP))


def finer(provider: str, model: str) -> bool:
    """Whether a rate of the model has more digits than nano-dollars."""
    found = listed(provider, model)
    assert found is not None
    price = found.get_prices(NOW)
    values = [value for value in price.__dict__.values() if value is not None]
    rates = [rate for value in values for rate in (value, *(tier.price for tier in getattr(value, "tiers", ())))]
    return any(rate * 10**9 % 1 for rate in (getattr(rate, "base", rate) for rate in rates))


def test_every_model_costs_what_the_list_says() -> None:
    """Each model with a price per token of input and output: our integers equal the list's own calculation, rounded.

    Where a rate of the list is finer than a nano-dollar a million tokens, as some that were divided by twelve are, the
    last digit may differ.
    """
    draw, seen, wrong = random.Random(5), Counter[str](), []
    for provider, model in MODELS:
        found = bundled(provider, model, NOW)
        seen["priced" if found else "left out"] += 1
        for usage in usages(draw) if found else ():
            ours = found.price.cost_nano(usage) if found else 0
            if abs(ours - theirs(provider, model, usage)) > finer(provider, model):
                wrong.append((provider, model, usage, ours, theirs(provider, model, usage)))
    assert not wrong, wrong[:5]
    assert seen["priced"] > 1_000


def test_no_call_costs_more_than_its_worst_case() -> None:
    """P4: of every model, whatever its steps, sorts of tokens and fees, and whatever a call turns out to hold."""
    draw = random.Random(6)
    for provider, model in MODELS:
        found = bundled(provider, model, NOW)
        for usage in usages(draw) if found else ():
            assert found is not None
            price, tokens, output = found.price, usage.input_tokens, usage.output_tokens
            assert price.cost_nano(usage) <= price.worst_nano(tokens, output), (provider, model, usage)
            smaller = Usage(tokens // 3, output // 2, usage.cached_tokens // 3, usage.reasoning_tokens // 2)
            assert price.cost_nano(smaller) <= price.worst_nano(tokens, output), (provider, model, smaller)


def test_what_is_left_out() -> None:
    """Models without a price for both input and output tokens are not priced: embeddings, speech, pages, characters."""
    for provider, model in MODELS:
        found = listed(provider, model)
        vendor = found.get_prices(NOW) if found is not None and found.prices else None
        lacking = vendor is None or vendor.input_mtok is None or vendor.output_mtok is None
        assert (bundled(provider, model, NOW) is None) == lacking, (provider, model)


def test_a_fee_a_call_is_charged() -> None:
    """A model with a price for a thousand requests costs a thousandth of it a call, whatever its tokens."""
    feeing = [
        found
        for provider, model in MODELS
        if (found := bundled(provider, model, NOW)) is not None and found.price.per_call_nano
    ]
    assert feeing
    for found in feeing:
        assert found.price.cost_nano(Usage()) == found.price.per_call_nano > 0


def dated(kind: str, model: str, at: datetime) -> Bundled:
    """The model's price at a time; it must have one."""
    found = bundled(kind, model, at)
    assert found is not None
    return found


def test_the_day_a_price_holds_from_and_the_next_are_told() -> None:
    """Of a model with dated prices: since when the present one holds, and that another may hold from a later day on."""
    for provider in get_snapshot().providers:
        for model in provider.models:
            days = days_of(model)
            if len(days) == 2 and days[0] is None and days[1] and dated_tokens(provider.id, model.id, days[1]):
                day = datetime(days[1].year, days[1].month, days[1].day, tzinfo=UTC)
                before = dated(provider.id, model.id, day - timedelta(seconds=1))
                after = dated(provider.id, model.id, day)
                assert (before.since, before.turns) == (None, (day,)), model.id
                assert (after.since, after.turns) == (days[1], ()), model.id
                return
    pytest.fail("no model of the list has a dated price")


def dated_tokens(kind: str, model: str, day: date) -> bool:
    """Whether tokens of both sides are priced before and from a day on."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    return None not in (bundled(kind, model, noon), bundled(kind, model, noon - timedelta(days=1)))


def test_prices_by_the_time_of_day_turn_at_their_hours() -> None:
    """A model that is cheaper at some hours is told to turn within a day, at the moment its price does."""
    found = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            if isinstance(model.prices, list) and any(hasattr(one.constraint, "start_time") for one in model.prices):
                now = bundled(provider.id, model.id, NOW)
                if now is not None and now.turns:
                    found += 1
                    assert NOW < now.turns[0] <= NOW + timedelta(days=1)
                    for turn in now.turns:
                        before = dated(provider.id, model.id, turn - timedelta(seconds=1))
                        assert before.price != dated(provider.id, model.id, turn).price, (model.id, turn)
    assert found
