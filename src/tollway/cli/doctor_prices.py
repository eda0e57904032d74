"""The doctor's checks of prices: whether every route has one, where it comes from, and which will change soon."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from tollway.cli.doctor_checks import Check
from tollway.config import Settings
from tollway.spend.price_list import UNKNOWN
from tollway.spend.prices import WORST_CASE
from tollway.wiring.llm import make_price_list

_SOON = timedelta(days=30)


def check_prices(settings: Settings, now: datetime) -> Iterator[Check]:
    """Whether the models of all routes have prices, by model; and whether each configured price is of some route."""
    items: list[dict[str, Any]] = make_price_list(settings).shown(now.timestamp())["items"]
    models = {f"{item['provider']}/{item['model']}": item for item in items}
    sound = 0
    for name, item in models.items():
        check = _check(name, item, now)
        sound += check is None
        if check is not None:
            yield check
    for name in settings.prices:
        if name not in models and not settings.simulated:
            remedy = "see whether its name is spelled as in the routes, or take it out"
            yield Check("prices", "warn", f"{name} is priced, and no route leads to it", remedy)
    if sound:
        sources = sorted({item["version"] for item in models.values() if "version" in item})
        yield Check("prices", "ok", f"{sound} of {len(models)} models priced by {', '.join(sources)}")


def _check(name: str, item: dict[str, Any], now: datetime) -> Check | None:
    """What is to be said of a model's price; None if it is in order for some time to come."""
    if item["source"] == UNKNOWN:
        return Check("prices", "fail", f"{name} has no price: processes that call it do not start", item["remedy"])
    if item["source"] == WORST_CASE:
        remedy = f'add [prices."{name}"] with what it really costs'
        return Check("prices", "warn", f"{name} is charged at the worst case of [spend]", remedy)
    changes_at = item["changes_at"]
    if changes_at is not None and changes_at <= now + _SOON and item["source"] == "config":
        return Check("prices", "ok", f"{name}: another price from {changes_at:%Y-%m-%d} on")
    return None
