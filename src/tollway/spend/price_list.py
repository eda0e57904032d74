"""The price of every route as JSON shows it: its rates, where they come from, when they change, and what a usual call
costs at worst.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tollway.config import Provider, Route
from tollway.domain.errors import ConfigError
from tollway.domain.money import usd
from tollway.spend.model_price import Rates
from tollway.spend.prices import Prices, Quote

UNKNOWN = "unknown"
USUAL_INPUT_TOKENS = 1000
"""The input of a usual call; its output is `llm.max_tokens_default`, all of it."""


class PriceList:
    """The prices of routes, at any time."""

    def __init__(
        self, routes: Sequence[Route], providers: Mapping[str, Provider], prices: Prices, output_tokens: int
    ) -> None:
        """`output_tokens` are those of a usual call."""
        self._routes = routes
        self._providers = providers
        self._prices = prices
        self._output_tokens = output_tokens

    def shown(self, at_s: float) -> dict[str, Any]:
        """Every route with its price at a time, seconds since the epoch; one without has the source `unknown`.

        Takes up to a second the first time, which loading the bundled list may need.
        """
        usual = {"input_tokens": USUAL_INPUT_TOKENS, "output_tokens": self._output_tokens}
        return {"items": [self._item(route, at_s) for route in self._routes], "usual_call": usual, "next": None}

    def _item(self, route: Route, at_s: float) -> dict[str, Any]:
        named = {"route": route.name, "tier": route.tier, "provider": route.provider, "model": route.model}
        named |= {"capacity": route.capacity}
        sort = (route.provider, self._providers[route.provider].kind, route.model)
        try:
            quote = self._prices.quote(*sort, at_s)
            changes_at = self._prices.changes_at(*sort, at_s)
        except ConfigError as error:
            return {**named, "source": UNKNOWN, "remedy": error.remedy}
        return {**named, **self._quoted(quote), "changes_at": changes_at}

    def _quoted(self, quote: Quote) -> dict[str, Any]:
        price, given = quote.price, quote.configured
        worst_nano = price.worst_nano(USUAL_INPUT_TOKENS, self._output_tokens)
        found: dict[str, Any] = {
            "source": quote.source,
            "version": price.version,
            "since": None if quote.since is None else quote.since.isoformat(),
            **_rates(price.base),
            "above": [{"input_tokens": above, **_rates(rates)} for above, rates in reversed(price.steps)],
            "per_call_usd": usd(price.per_call_nano),
            "per_call_nano": price.per_call_nano,
            "worst_call_usd": usd(worst_nano),
            "worst_call_nano": worst_nano,
        }
        if given is not None and given.usd_per_hour is not None and given.mtok_per_hour is not None:
            found |= {"usd_per_hour": float(given.usd_per_hour), "mtok_per_hour": float(given.mtok_per_hour)}
        return found


def _rates(rates: Rates) -> dict[str, float]:
    """The rates in dollars per million tokens."""
    reasoning = rates.output if rates.reasoning is None else rates.reasoning
    return {
        "input_usd_per_mtok": usd(rates.input),
        "output_usd_per_mtok": usd(rates.output),
        "cached_input_usd_per_mtok": usd(rates.cached_input),
        "cache_write_usd_per_mtok": usd(rates.cache_write),
        "cache_write_long_usd_per_mtok": usd(rates.cache_write_long),
        "reasoning_usd_per_mtok": usd(reasoning),
    }
