"""Every LLM call of this process: placed on a route, accounted before and after, taken elsewhere when a route fails.

    complete ─▶ rungs of its budgets ─▶ kept answer? same call in flight? ─▶ hop ─▶ settled ─▶ kept
                                                                             │ ▲
                                                    failed: the next route, ─┘ └─ until none is left or time is over

A hop is one call on one route, with a call id and money of its own.
"""

import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tollway.config import Llm, Spend
from tollway.domain.budgets import Rung, Stood
from tollway.domain.clock import Clock
from tollway.domain.errors import LlmError
from tollway.domain.llm import Caller, LlmRequest
from tollway.llm import estimate
from tollway.llm.board import RouteBoard
from tollway.llm.books import Books, Terms
from tollway.llm.cache.answers import Kept
from tollway.llm.cache.exact import FLIGHT, ExactCache
from tollway.llm.cache.fingerprint import fingerprint
from tollway.llm.calls import CallResult
from tollway.llm.capacity.costs import Flow
from tollway.llm.gateway import Gateway
from tollway.llm.guards import Guards
from tollway.llm.hop import Hop, HopKit, Spent, indicts, unheard
from tollway.llm.outlook import Outlook
from tollway.llm.placing import Errand, Placer
from tollway.llm.providers.wire import refused
from tollway.llm.rungs import Ladder, LadderKit
from tollway.llm.streaming import GovernedStream
from tollway.spend.budgets import Budgets, NoBudgets, Standing
from tollway.spend.refusals import barred
from tollway.telemetry.metrics import Metrics

T = TypeVar("T")
_WORTH_S = 0.05
_STAYS = frozenset(("timeout_step", "invalid_answer", "budget_exhausted"))
_SILENT = frozenset((Rung.ALERT, Rung.THROTTLE))
"""Rungs that a kept answer does not tell of: it is what was asked for, and waited for nobody."""

Shift = Callable[[Caller, str], str]
"""Which tier serves a caller's tier, as an operator shifted it."""


def unshifted(_caller: Caller, tier: str) -> str:
    """No tier is shifted."""
    return tier


@dataclass(frozen=True, slots=True)
class GovernorOptions:
    """What a governor may be told beyond its guards."""

    llm: Llm
    clock: Clock
    shift: Shift = unshifted
    cache: ExactCache[Kept] | None = None
    chance: Callable[[], float] = field(default=random.random)
    spent: Spent = unheard
    budgets: Budgets = field(default_factory=NoBudgets)
    spend: Spend = field(default_factory=Spend)


class Governor:
    """Serves requests. Capacity, breakers and retry budgets are its guards' matter; money and outcomes its books'.

    On which rungs of its budgets a request stands is asked before anything else (`rungs.py`).
    """

    def __init__(self, gateway: Gateway, guards: Guards, metrics: Metrics, options: GovernorOptions) -> None:
        self._options = options
        self.board = RouteBoard(guards, options.clock)
        self._kit = HopKit(gateway, options.llm, options.clock, metrics, self.board, guards.lengths, options.spent)
        self._placer = Placer(gateway.tiers, guards, options.llm, options.clock, options.chance)
        ladder = LadderKit(gateway, self._placer, options.budgets, options.spend, options.clock, metrics)
        self._ladder = Ladder(ladder, options.llm.park_after_s)

    async def complete(self, request: LlmRequest, caller: Caller, books: Books, terms: Terms) -> CallResult:
        """The whole answer. Raises LlmError, and whatever the books forbid."""
        errand = self._errand(request, caller, terms)
        cache = self._options.cache if terms.cache else None
        standing = await self._ladder.look(caller)
        if standing.rungs:
            kept = await self._descend(errand, standing, cache, books)
            if kept is not None:
                return kept
            self._ladder.bar(standing, books)
        if cache is None:
            return await self._until_served(errand, books, self._call)
        return await self._through(cache, errand, books)

    def outlook(self, tier: str, lane: str) -> Outlook:
        """How a tier stands for calls of a lane, after the shifts that hold for all of them."""
        return self._placer.outlook(self._options.shift(Caller("", lane, "", "", ""), tier))

    async def _through(self, cache: ExactCache[Kept], errand: Errand, books: Books) -> CallResult:
        """A kept answer, that of the same call in flight, or a call whose answer is kept."""
        made: CallResult | None = None

        async def make() -> Kept:
            nonlocal made
            made = await self._until_served(errand, books, self._call)
            return Kept.of(made)

        key, left_s = fingerprint(errand.caller, errand.request), errand.deadline - self._options.clock.monotonic()
        try:
            found = await cache.through(key, errand.caller, make, patience_s=left_s if left_s < math.inf else None)
        except TimeoutError:
            message = "the same call, made for another meanwhile, brought no answer in time"
            raise LlmError("timeout_step", message) from None
        self._kit.metrics.llm_cache.add(found.result)
        if made is not None:
            return made
        return await self._hit(found.value, "flight" if found.result == FLIGHT else "exact", books, errand.stood)

    async def _hit(self, value: Kept, cached: str, books: Books, stood: Sequence[Stood]) -> CallResult:
        hit = value.result().given_again(cached)
        for one in stood:
            if one.rung not in _SILENT:
                hit = hit.standing_on(one.rung.value)
        self._kit.metrics.llm_saved_nano.add(by=hit.saved_nano)
        self._ladder.tell(books, tuple(one for one in stood if one.rung is not Rung.THROTTLE))
        await books.hit(hit)
        return hit

    async def _descend(
        self, errand: Errand, standing: Standing, cache: ExactCache[Kept] | None, books: Books
    ) -> CallResult | None:
        """Put the errand on the rungs of its budgets. Where one changes or forbids the request, a kept answer serves.

        That to the request as it was asked stands on none of them, but for `cached_only`.
        """
        asked = errand.request
        self._ladder.put_on(errand, standing)
        shut = barred(standing) is not None
        changed = errand.request is not asked
        if cache is None or not (shut or changed):
            return None
        only = standing.by.get(Rung.CACHED_ONLY)
        cached_only = () if only is None else (Stood(Rung.CACHED_ONLY, only.budget),)
        value = await self._find(cache, errand.caller, asked)
        if value is not None:
            return await self._hit(value, "exact", books, cached_only)
        value = await self._find(cache, errand.caller, errand.request) if shut and changed else None
        return None if value is None else await self._hit(value, "exact", books, (*errand.stood, *cached_only))

    async def _find(self, cache: ExactCache[Kept], caller: Caller, request: LlmRequest) -> Kept | None:
        key = fingerprint(caller, request)
        return cache.peek(key) or await cache.find(key)

    async def stream(self, request: LlmRequest, caller: Caller, books: Books, terms: Terms) -> GovernedStream:
        """The answer as it comes, once its first piece is there; until then another route may take over.

        An answer kept from before is not streamed: ask `kept` first.
        """
        errand = self._errand(request, caller, terms)
        standing = await self._ladder.look(caller)
        if standing.rungs:
            self._ladder.put_on(errand, standing)
            self._ladder.bar(standing, books)
        stream = await self._until_served(errand, books, self._open)
        cache = self._options.cache if terms.cache else None
        if cache is not None:
            key = fingerprint(caller, errand.request)
            stream.on_whole = lambda result: cache.keep(key, caller, Kept.of(result))
        return stream

    async def kept(self, request: LlmRequest, caller: Caller, books: Books, terms: Terms) -> CallResult | None:
        """The answer kept from an earlier call, if the terms allow it and there is one. The books hear of a hit."""
        cache = self._options.cache if terms.cache else None
        if cache is None:
            return None
        errand = self._errand(request, caller, terms)
        standing = await self._ladder.look(caller)
        if standing.rungs:
            hit = await self._descend(errand, standing, cache, books)
            if hit is not None or barred(standing) is not None:
                return hit
        value = await self._find(cache, caller, errand.request)
        return None if value is None else await self._hit(value, "exact", books, errand.stood)

    async def _call(self, hop: Hop) -> CallResult:
        with hop.accounted():
            result = await self._kit.gateway.execute(hop.plan, str(hop.call_id), hop.timeout_s, hop.told)
        return hop.done(result)

    async def _open(self, hop: Hop) -> GovernedStream:
        with hop.accounted():
            call = self._kit.gateway.stream(hop.plan, str(hop.call_id), hop.timeout_s)
        stream = GovernedStream(hop, call)
        await stream.open()
        return stream

    async def _until_served(self, errand: Errand, books: Books, serve: Callable[[Hop], Awaitable[T]]) -> T:
        """One hop after another, once its budgets let it go and until one of them serves."""
        if errand.stood:
            self._ladder.tell(books, errand.stood)
        fare = errand.fare = await self._ladder.pace(errand)
        try:
            return await self._hops(errand, books, serve)
        except BaseException:
            if fare is not None:
                fare.settle(0)
            raise

    async def _hops(self, errand: Errand, books: Books, serve: Callable[[Hop], Awaitable[T]]) -> T:
        """A route that failed is not asked again for this request."""
        while True:
            try:
                placed = await self._placer.place(errand)
            except LlmError as error:
                error.tier = errand.asked
                raise
            hop = Hop(self._kit, errand, placed, books)
            try:
                await hop.begin()
            except LlmError as error:
                self._ladder.refused(books, error)
                raise
            try:
                return await serve(hop)
            except LlmError as error:
                errand.failed[placed.way.name] = error
                errand.providers.add(placed.way.provider)
                if not self._goes_on(error, errand):
                    raise

    def _goes_on(self, error: LlmError, errand: Errand) -> bool:
        """Whether another route may serve what this one could not."""
        if error.code in _STAYS or (error.final and not indicts(error)):
            return False
        return errand.deadline - self._options.clock.monotonic() > _WORTH_S

    def _errand(self, request: LlmRequest, caller: Caller, terms: Terms) -> Errand:
        if not request.inputs:
            if not request.messages:
                raise refused("the request has no messages")
            if request.max_tokens < 1:
                raise refused(f"max_tokens must be at least 1, not {request.max_tokens}")
        try:
            input_tokens = estimate.input_tokens(request)
        except (AttributeError, TypeError) as error:
            raise refused(f"the messages are not in the chat form: {error}") from None
        asked = request.tier
        tier = self._options.shift(caller, asked)
        if tier != asked:
            request = replace(request, tier=tier)
        deadline = self._options.clock.monotonic() + terms.timeout_s
        flow = Flow(caller.lane, caller.tenant, caller.agent, caller.weight)
        return Errand(request, caller, input_tokens, deadline, terms.again, flow, asked)
