"""Requests on the rungs of their budgets (P12): what each rung changes, and what it forbids.

look ─▶ sound: nothing to do
     └▶ put_on ─▶ lower tier, fewer tokens ─▶ bar: only kept answers, park, refuse ─▶ pace: wait for a turn
"""

from dataclasses import dataclass, replace

from tollway.config import Spend
from tollway.domain.budgets import Exhausted, Rung, Stood
from tollway.domain.clock import Clock
from tollway.domain.errors import LlmError
from tollway.domain.llm import LlmRequest
from tollway.llm.books import Books
from tollway.llm.gateway import Gateway
from tollway.llm.placing import Errand, Placer
from tollway.llm.throttle import Fare, Passenger, Throttle
from tollway.spend.budgets import Budgets, Standing
from tollway.spend.ladder import fewer
from tollway.spend.refusals import barred, behind, spent
from tollway.telemetry.metrics import Metrics

INTERACTIVE = "interactive"


@dataclass(frozen=True, slots=True)
class LadderKit:
    """What a ladder works with."""

    gateway: Gateway
    placer: Placer
    budgets: Budgets
    spend: Spend
    clock: Clock
    metrics: Metrics


class Ladder:
    """Knows the standing of callers, and holds their requests to it."""

    def __init__(self, kit: LadderKit, park_after_s: float) -> None:
        self._kit = kit
        self._throttle = Throttle(kit.clock, park_after_s)
        self.look = kit.budgets.look

    def put_on(self, errand: Errand, standing: Standing) -> None:
        """Change the request as its rungs want it, and note on the errand which of them it stands on.

        What names a model, or asks for embeddings, is served as it is: another model's answer is no lesser one of the
        same. A model that thinks keeps its tokens. A tier that could never serve the request is not lowered to.
        """
        stood = [Rung.ALERT] if Rung.ALERT in standing.rungs else []
        if standing.paces:
            stood.append(Rung.THROTTLE)
        if Rung.FEWER_TOKENS in standing.rungs and self._shorten(errand):
            stood.append(Rung.FEWER_TOKENS)
        if Rung.LOWER_TIER in standing.rungs and self._lower(errand):
            stood.append(Rung.LOWER_TIER)
        errand.stood = tuple(Stood(rung, standing.by[rung].budget) for rung in stood)
        errand.paces = standing.paces

    def bar(self, standing: Standing, books: Books) -> None:
        """Raises LlmError `budget_exhausted` where a rung leaves no way to call; nothing was reserved."""
        rung = barred(standing)
        if rung is not None:
            exhausted = standing.by[rung]
            self.tell(books, (Stood(rung, exhausted.budget),), refused=True)
            raise behind(rung, exhausted, self._kit.clock.now())

    def refused(self, books: Books, error: LlmError) -> None:
        """No money was to be had for a call: then it stood on the last rung all the same."""
        if error.exhausted is not None and error.code == "budget_exhausted" and error.exhausted.budget:
            rung = Rung.PARK if error.parks or error.exhausted.parks else Rung.REFUSE
            self.tell(books, (Stood(rung, error.exhausted.budget),), refused=True)

    async def pace(self, errand: Errand) -> Fare | None:
        """Wait for the turn of a throttled call. Raises LlmError `throttled`, or `budget_exhausted` without money."""
        if not errand.paces:
            return None
        caller = errand.caller
        empty = next((pace for pace in errand.paces if pace.left_nano <= 0), None)
        if empty is not None:
            exhausted = self._kit.budgets.standing(caller).by.get(Rung.THROTTLE)
            exhausted = exhausted or Exhausted(empty.budget, None, parks=True)
            raise spent(exhausted, f"budget {empty.budget} is spent", self._kit.clock.now())

        def held(budget: int) -> bool:
            return any(pace.budget == budget for pace in self._kit.budgets.standing(caller).paces)

        nano = self._kit.gateway.usual_nano(errand.request, errand.input_tokens)
        return await self._throttle.take(
            errand.paces, nano, Passenger(caller.lane == INTERACTIVE, errand.deadline, held)
        )

    def tell(self, books: Books, stood: tuple[Stood, ...], *, refused: bool = False) -> None:
        """Have the books and the metrics say on which rungs a request stands; each once a request."""
        for one in books.stand_on(stood, refused=refused):
            self._kit.metrics.degraded.add(one.rung.value)

    def _shorten(self, errand: Errand) -> bool:
        request = errand.request
        bound = fewer(request.max_tokens, self._kit.spend.fewer_tokens_share)
        if request.inputs or bound == request.max_tokens or _thinks(request):
            return False
        errand.request = replace(request, max_tokens=bound)
        return True

    def _lower(self, errand: Errand) -> bool:
        request = errand.request
        tier = None if request.inputs else self._kit.gateway.lower_tier(request.tier)
        if tier is None:
            return False
        errand.request = replace(request, tier=tier)
        try:
            self._kit.placer.groups(errand)
        except LlmError:
            errand.request = request
            return False
        return True


def _thinks(request: LlmRequest) -> bool:
    """Whether part of its tokens are given to thinking, which the vendor wants to be fewer than all of them."""
    return "thinking" in request.extra or (request.sent is not None and "thinking" in request.sent.fields)
