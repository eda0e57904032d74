"""The price list of routes: what is shown of a price, and of none."""

from datetime import UTC, date, datetime
from typing import Any

from tollway.config import Price, Provider, Route
from tollway.spend.price_list import PriceList
from tollway.spend.prices import Prices

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC).timestamp()


def listed(model: str, **prices: Any) -> dict[str, Any]:
    """The one item of a list with one route to this model."""
    route = Route(name="one", tier="fast", provider="p", model=model)
    overrides = {f"p/{name}": given for name, given in prices.items()}
    shown = PriceList([route], {"p": Provider(kind="anthropic")}, Prices(overrides), 500).shown(NOW)
    assert shown["usual_call"] == {"input_tokens": 1000, "output_tokens": 500}
    (item,) = shown["items"]
    assert {name: item[name] for name in ("route", "tier", "provider", "model", "capacity")} == {
        "route": "one", "tier": "fast", "provider": "p", "model": model, "capacity": "on_demand",
    }  # fmt: skip
    return dict(item)


def test_a_configured_price_is_shown_with_its_days() -> None:
    """Rates as they were given, their day, the next one's, and a usual call at its worst."""
    both = [
        Price.model_validate({"input_usd_per_mtok": 2, "output_usd_per_mtok": 8, "per_call_usd": "0.01", "from": day})
        for day in (date(2026, 1, 1), date(2027, 1, 1))
    ]
    item = listed("m", m=both)
    assert (item["source"], item["version"], item["since"]) == ("config", "config@2026-01-01", "2026-01-01")
    assert item["changes_at"] == datetime(2027, 1, 1, tzinfo=UTC)
    assert (item["input_usd_per_mtok"], item["output_usd_per_mtok"], item["reasoning_usd_per_mtok"]) == (2, 8, 8)
    assert (item["per_call_usd"], item["per_call_nano"]) == (0.01, 10_000_000)
    assert (item["worst_call_nano"], item["worst_call_usd"]) == (10_000_000 + 6_000_000, 0.016)
    assert "usd_per_hour" not in item


def test_hours_are_shown_beside_what_they_come_to() -> None:
    """Capacity that is paid by the hour shows the hour, the tokens expected of it, and the price a token."""
    item = listed("m", m=Price.model_validate({"usd_per_hour": 30, "mtok_per_hour": 10}))
    assert (item["usd_per_hour"], item["mtok_per_hour"], item["input_usd_per_mtok"]) == (30, 10, 3)


def test_a_vendors_price_is_shown_with_its_steps() -> None:
    """Of the bundled list: the version of the list, caches, and what holds above a number of tokens."""
    item = listed("claude-sonnet-4-5")
    assert item["source"] == "genai-prices"
    assert item["version"].startswith("genai-prices/")
    assert item["cached_input_usd_per_mtok"] < item["input_usd_per_mtok"] < item["cache_write_long_usd_per_mtok"]
    assert [step["input_tokens"] for step in item["above"]] == [200_000]
    assert item["above"][0]["input_usd_per_mtok"] > item["input_usd_per_mtok"]


def test_a_model_without_a_price_is_shown_as_unknown() -> None:
    """The list says so with the remedy, and goes on."""
    item = listed("mystery")
    assert (item["source"], "version" in item) == ("unknown", False)
    assert '[prices."p/mystery"]' in item["remedy"]
