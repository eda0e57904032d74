"""GET /v1/prices: what routes cost, for every key that may read."""

from dataclasses import replace
from datetime import UTC, datetime

from asgi_client import AsgiClient
from ingress_kit import ADMIN_KEY, ApiHarness
from tollway.config import Price, Provider, Route
from tollway.ingress.app import create_app
from tollway.spend.price_list import PriceList
from tollway.spend.prices import Prices


async def test_the_prices_of_all_routes(harness: ApiHarness, admin: AsgiClient) -> None:
    """A configured price, one of the bundled list and none at all, in the order of the routes, times as ever."""
    later = Price.model_validate({"input_usd_per_mtok": 2, "output_usd_per_mtok": 4, "from": "2999-01-01"})
    prices = Prices({"p/own": [Price(input_usd_per_mtok="1", output_usd_per_mtok="2"), later]})
    routes = [Route(tier="fast", provider="p", model=model) for model in ("own", "gpt-4o-mini", "mystery")]
    shown = PriceList(routes, {"p": Provider(kind="openai")}, prices, 500).shown
    client = AsgiClient(create_app(replace(harness.services, prices=shown)), ADMIN_KEY)
    answer = await client.get("/v1/prices")
    assert answer.status == 200
    assert [item["source"] for item in answer.json["items"]] == ["config", "genai-prices", "unknown"]
    own = answer.json["items"][0]
    assert (own["route"], own["version"], own["changes_at"]) == ("fast/p/own", "config", "2999-01-01T00:00:00.000Z")
    assert (own["worst_call_usd"], own["worst_call_nano"]) == (0.002, 2_000_000)
    assert answer.json["usual_call"] == {"input_tokens": 1000, "output_tokens": 500}
    assert datetime.now(UTC).year < 2999


async def test_it_needs_the_scope_read(harness: ApiHarness, admin: AsgiClient) -> None:
    """A tenant's key with `read` sees the prices, one without is refused."""
    for scopes, status in ((["read"], 200), (["submit"], 403)):
        made = (await admin.post("/v1/tenants/default/keys", {"name": "k", "scopes": scopes})).json
        assert (await AsgiClient(harness.api, made["key"]).get("/v1/prices")).status == status
