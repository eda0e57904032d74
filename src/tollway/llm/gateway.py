"""The way to the providers: plan a call on a route, then make it, whole or streamed.

A call is exactly one HTTP request. Which route, and what guards it, is the governor's; each hop has a plan of its own.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tollway.config import Provider, Route, Tier
from tollway.domain.clock import AnchoredClock, Clock
from tollway.domain.errors import ConfigError, LlmError
from tollway.domain.llm import LlmRequest
from tollway.llm.calls import CallResult, Plan, Served, failure
from tollway.llm.channel import Channel
from tollway.llm.providers import wire_of
from tollway.llm.providers.wire import Wire
from tollway.llm.streams import CallStream
from tollway.llm.tiers import Tiers
from tollway.llm.transport import Transport, TransportOptions
from tollway.spend.ladder import lower
from tollway.spend.model_price import ModelPrice
from tollway.spend.prices import Prices

_TYPICAL = (500, 250)
"""Input and output tokens of the call by which tiers are compared."""

Heard = Callable[[Mapping[bytes, bytes]], None]


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """What a gateway may be told beyond its routes; durations in seconds.

    A vendor sends the first byte of a plain answer when the whole is made, so by default only the total bounds it;
    the first byte of a stream is due within `stream_first_byte_timeout_s`.
    """

    transport: TransportOptions = field(default_factory=TransportOptions)
    first_byte_timeout_s: float | None = None
    stream_first_byte_timeout_s: float = 60.0
    clock: Clock = field(default_factory=AnchoredClock)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    tiers: Mapping[str, Tier] = field(default_factory=dict)


class Gateway:
    """Serves tiers by routes. `start` before the first call; `stop` may be called twice."""

    def __init__(
        self, routes: Sequence[Route], providers: Mapping[str, Provider], prices: Prices, options: GatewayOptions
    ) -> None:
        """Raises ConfigError, naming key and remedy, for a route that could never be called."""
        self._prices = prices
        self._options = options
        self._lines: dict[str, tuple[Provider, Wire, Channel]] = {}
        served = [self._serve(route, providers) for route in routes]
        self._tiers: Tiers[Served] = Tiers(served, options.tiers)

    async def start(self) -> None:
        """Make the connection pools."""
        for _, _, transport in self._lines.values():
            await transport.start()

    async def stop(self) -> None:
        """Close the connection pools; calls in flight fail with `connection`."""
        for _, _, transport in self._lines.values():
            await transport.stop()

    @property
    def tiers(self) -> Tiers[Served]:
        """What is served, by tier and by model."""
        return self._tiers

    def plan(self, request: LlmRequest, served: Served, input_tokens: int, asked: str | None = None) -> Plan:
        """A call on a route, its money at the worst case: the estimated input and all of `max_tokens`.

        `asked` is the tier that was asked for, where the request's is another.

        Raises a final LlmError `refused` for a request that cannot be sent.
        """
        route = served.route
        body = served.wire.encode(request, route.model)
        price = self._prices.price(route.provider, served.provider_kind, route.model, self._options.clock.now())
        caches = served.wire.cache_mark in body
        reserve_nano = price.worst_nano(input_tokens, request.max_tokens, caches=caches)
        price_asked = None if asked is None or asked == request.tier else self._first_price(asked)
        shifted = None if asked is None or price_asked is None else (asked, price_asked)
        return Plan(request, served, body, price, input_tokens, reserve_nano, shifted=shifted)

    def lower_tier(self, tier: str) -> str | None:
        """The tier below one: as configured, else the next cheaper by the first of its routes; None below the last."""
        costs = {
            name: price.worst_nano(*_TYPICAL, caches=False)
            for name in self._tiers.names
            if (price := self._first_price(name)) is not None
        }
        configured = {name: one.lower for name, one in self._options.tiers.items() if one.lower}
        return lower(tier, costs, configured)

    def usual_nano(self, request: LlmRequest, input_tokens: int) -> int:
        """What the request may cost on the first route that serves it, nano-dollars; 0 where nobody does."""
        price = self._first_price(request.tier)
        return 0 if price is None else price.worst_nano(input_tokens, request.max_tokens, caches=False)

    def _first_price(self, tier: str) -> ModelPrice | None:
        """The price of the first of the routes that serve a tier or model."""
        groups = self._tiers.groups(tier)
        if not groups:
            return None
        first = groups[0].routes[0]
        route = first.route
        return self._prices.price(route.provider, first.provider_kind, route.model, self._options.clock.now())

    async def execute(
        self,
        plan: Plan,
        call_id: str,
        timeout_s: float,
        on_headers: Heard | None = None,
    ) -> CallResult:
        """Make the call; `on_headers` hears the answer's header fields, whatever its status. Raises LlmError.

        Cancelled, it returns at once, and may be billed all the same.
        """
        if plan.request.stream:
            raise ValueError("this plan is of a streamed request: use Gateway.stream")
        served = plan.served
        since = time.monotonic()
        try:
            path = served.wire.path(plan.request, plan.model)
            patience_s = self._options.first_byte_timeout_s
            answer = await served.transport.post(plan.body, call_id, timeout_s, patience_s, path)
            if on_headers is not None:
                on_headers(answer.fields)
            if not 200 <= answer.status < 300:
                raise failure(answer.status, answer.body, answer.retry_after_s)
            return plan.result(served.wire.decode(answer.body, plan.request), time.monotonic() - since)
        except LlmError as error:
            error.route = plan.route
            raise

    def stream(self, plan: Plan, call_id: str, timeout_s: float) -> CallStream:
        """Begin a streamed call; the request goes out with the first `anext`. Close it if it is not exhausted."""
        if not plan.request.stream:
            raise ValueError("this plan is of a plain request: set LlmRequest.stream")
        served = plan.served
        path = served.wire.path(plan.request, plan.model)
        exchange = served.transport.open(plan.body, call_id, timeout_s, path)
        decoder = served.wire.stream(plan.request)
        return CallStream(plan, exchange, decoder, self._options.stream_first_byte_timeout_s)

    def _serve(self, route: Route, providers: Mapping[str, Provider]) -> Served:
        line = self._lines.get(route.provider)
        if line is None:
            provider = providers.get(route.provider)
            if provider is None:
                raise ConfigError("routes.provider", route.provider, f"add a section [providers.{route.provider}]")
            try:
                wire = wire_of(route.provider, provider, self._options.environ)
                transport = self._channel(route.provider, wire)
            except ValueError as error:
                raise ConfigError(f"providers.{route.provider}.base_url", provider.base_url, str(error)) from None
            line = (provider, wire, transport)
            self._lines[route.provider] = line
        provider, wire, transport = line
        self._prices.price(route.provider, provider.kind, route.model, self._options.clock.now())
        window = route.context_tokens
        if window is None:
            window = self._prices.context_tokens(route.provider, provider.kind, route.model)
        return Served(route, provider.kind, window, wire, transport)

    def _channel(self, name: str, wire: Wire) -> Channel:
        if wire.channel is None:
            return Transport(wire.url, dict(wire.headers), self._options.transport)
        try:
            return wire.channel(self._options.transport)
        except ImportError as error:
            remedy = f"install its extra (pip install 'tollway[litellm]'): {error}"
            raise ConfigError(f"providers.{name}.kind", "litellm", remedy) from None
