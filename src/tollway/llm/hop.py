"""One call on one route, from its intent to its outcome: however it ends, its guards and its books hear of it once."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from tollway import failpoints
from tollway.config import Llm
from tollway.domain.budgets import Rung
from tollway.domain.clock import Clock
from tollway.domain.errors import LlmError
from tollway.domain.llm import Usage
from tollway.llm.board import RouteBoard
from tollway.llm.books import Books
from tollway.llm.calls import CallResult, Plan
from tollway.llm.capacity.lengths import Lengths
from tollway.llm.capacity.limiter import Limiter
from tollway.llm.gateway import Gateway
from tollway.llm.meter import RouteMeter
from tollway.llm.placing import Errand, Placed
from tollway.llm.providers.limits import limits_told
from tollway.telemetry.metrics import Metrics

FALLBACK = "fallback"
Spent = Callable[[str, int], None]
"""Hears of every call's tokens, input and output, with the tenant they are charged to."""
_INDICTS = frozenset(
    ("timeout_connect", "timeout_first_byte", "timeout_total", "connection", "provider_5xx", "bad_response")
)
_TIMEOUTS = frozenset(("timeout_connect", "timeout_first_byte", "timeout_total"))
_TIMER_S = 0.005
_KEY_OR_ADDRESS = frozenset((401, 403, 404))


def unheard(_tenant: str, _tokens: int) -> None:
    """Nobody counts."""


@dataclass(frozen=True, slots=True)
class HopKit:
    """What every hop needs."""

    gateway: Gateway
    llm: Llm
    clock: Clock
    metrics: Metrics
    board: RouteBoard
    lengths: Lengths
    spent: Spent = unheard


def indicts(error: LlmError) -> bool:
    """Whether an error speaks against the route, rather than against the request or this moment's limits."""
    return error.code in _INDICTS or error.status in _KEY_OR_ADDRESS


class Hop:
    """`begin`, then the call within `accounted`, then `done`; or `cut` when nobody waits for it any more."""

    __slots__ = (
        "_books",
        "_errand",
        "_kit",
        "_late_at",
        "_meter",
        "_over",
        "_placed",
        "_step_bound",
        "call_id",
        "plan",
        "timeout_s",
    )

    call_id: UUID
    plan: Plan
    _meter: RouteMeter

    def __init__(self, kit: HopKit, errand: Errand, placed: Placed, books: Books) -> None:
        self._kit = kit
        self._errand = errand
        self._placed = placed
        self._books = books
        self._over = False
        self._step_bound = False
        self._late_at = 0.0
        self.timeout_s = 0.0

    async def begin(self) -> None:
        """Plan the call and write its intent. Raises what forbids it; nothing is held then."""
        placed, errand, kit = self._placed, self._errand, self._kit
        try:
            plan = kit.gateway.plan(errand.request, placed.way.served, errand.input_tokens, errand.asked)
            if placed.instead_of is not None:
                plan = plan.standing_in(*placed.instead_of)
            self.plan = plan
            self.call_id = await self._books.intend(plan)
        except BaseException:
            placed.withdraw()
            raise
        if errand.fare is not None:
            errand.fare.charge()
        now = kit.clock.monotonic()
        placed.way.breaker.sent(placed.ticket, now)  # the record's own slowness is not the route's
        left_s = errand.deadline - now
        self._step_bound = left_s < kit.llm.timeout_s
        self.timeout_s = max(0.001, min(left_s, kit.llm.timeout_s))
        self._late_at = now + self.timeout_s - _TIMER_S
        self._meter = kit.board.meter(plan.route)
        self._meter.begin()

    @property
    def degraded(self) -> tuple[str, ...]:
        """The rungs its answer stands on: those of budgets, and `fallback`."""
        rungs = tuple(stood.rung.value for stood in self._errand.stood if stood.rung is not Rung.ALERT)
        return rungs if self._placed.instead_of is None else (*rungs, FALLBACK)

    @contextmanager
    def accounted(self) -> Iterator[None]:
        """Whatever ends the call within before it is whole is written down."""
        try:
            yield
        except LlmError as error:
            if error.code in _TIMEOUTS and self._step_bound and self._kit.clock.monotonic() >= self._late_at:
                error.code = "timeout_step"
            self._failed(error)
            raise
        except StopAsyncIteration:
            raise
        except BaseException:
            self.cut()
            raise

    def done(self, result: CallResult) -> CallResult:
        """The call came back whole. Raises LlmError when its asker cannot use the answer."""
        if failpoints.armed:
            failpoints.hit("call.after")
        self._over = True
        usage, placed, now = result.completion.usage, self._placed, self._kit.clock.monotonic()
        placed.hold.settle(usage.input_tokens, usage.output_tokens)
        if not usage.estimated and isinstance(placed.way.limiter, Limiter):
            self._kit.lengths.learn(
                self.plan.route, self._errand.caller, self._errand.input_tokens, usage.input_tokens, usage.output_tokens
            )
        placed.way.breaker.end(placed.ticket, now, True, usage.output_tokens)
        self._spend(usage)
        self._count(result, now)
        if placed.instead_of is not None:
            self._kit.metrics.degraded.add(FALLBACK)
        if self._errand.fare is not None:
            self._errand.fare.settle(result.cost_nano)
        for rung in self.degraded:
            result = result.standing_on(rung)
        self._books.settle(self.plan, self.call_id, result)
        return result

    def told(self, fields: Mapping[bytes, bytes]) -> None:
        """The headers of the answer: a vendor that tells its limits corrects ours."""
        limiter = self._placed.way.limiter
        if not isinstance(limiter, Limiter):
            return
        told = limits_told(self._placed.way.served.provider_kind, fields, self._kit.clock.now())
        for name, dimension in (
            ("requests", told.requests),
            ("tokens", told.tokens),
            ("input_tokens", told.input),
            ("output_tokens", told.output),
        ):
            if dimension is not None:
                limiter.told(name, dimension.limit, dimension.remaining)

    def rests(self) -> None:
        """Its stream is not read on just now."""
        self._placed.way.breaker.rest(self._placed.ticket, self._kit.clock.monotonic())

    def goes_on(self) -> None:
        """Its stream is read on."""
        self._placed.way.breaker.go_on(self._placed.ticket, self._kit.clock.monotonic())

    def cut(self) -> None:
        """Nobody waits for the call any more: it may be billed all the same. A second time is nothing."""
        if self._over:
            return
        self._over = True
        self._placed.hold.failed()
        self._placed.way.breaker.drop(self._placed.ticket)
        self._meter.cut()
        self._spend(None)
        self._kit.metrics.llm_calls.add(self.plan.route, "cancelled")
        if self._errand.fare is not None:
            self._errand.fare.settle(self.plan.reserve_nano)
        self._books.fail(self.plan, self.call_id, None)

    def _failed(self, error: LlmError) -> None:
        if self._over:  # a stream that was closed while somebody still read it
            return
        self._over = True
        way, hold, now = self._placed.way, self._placed.hold, self._kit.clock.monotonic()
        if error.status == 429 or (error.status is None and not error.billed):
            hold.release()
        elif error.usage is not None and not error.usage.estimated:
            hold.settle(error.usage.input_tokens, error.usage.output_tokens)
        else:
            hold.failed()
        if error.code == "rate_limited":
            way.limiter.throttled(error.retry_after_s)
        if indicts(error):
            way.breaker.end(self._placed.ticket, now, False, None)
        else:
            way.breaker.drop(self._placed.ticket)
        self._meter.failed(now, throttled=error.code == "rate_limited")
        if error.billed:
            self._spend(error.usage)
        if self._errand.fare is not None:
            charge = self.plan.reserve_nano if error.cost_nano is None else error.cost_nano
            self._errand.fare.settle(charge if error.billed else 0)
        self._kit.metrics.llm_calls.add(self.plan.route, error.code)
        self._books.fail(self.plan, self.call_id, error)

    def _spend(self, usage: Usage | None) -> None:
        """Tell of the tokens; where nobody knows them they count at their worst case, as the money does."""
        if usage is None:
            tokens = self.plan.input_tokens + self.plan.request.max_tokens
        else:
            tokens = usage.input_tokens + usage.output_tokens
        self._kit.spent(self._errand.caller.tenant, tokens)

    def _count(self, result: CallResult, now: float) -> None:
        metrics, usage, route = self._kit.metrics, result.completion.usage, result.route
        instead_of = self._placed.instead_of
        self._meter.done(
            now, result.latency_s, usage.input_tokens, usage.output_tokens, fallback=instead_of is not None
        )
        self._kit.board.served(self._errand.request.tier, instead_of, route)
        metrics.llm_calls.add(route, "ok")
        metrics.llm_tokens.add(route, "input", by=usage.input_tokens)
        metrics.llm_tokens.add(route, "output", by=usage.output_tokens)
        metrics.llm_cost_nano.add(route, by=result.cost_nano)
        metrics.llm_seconds.observe(result.latency_s, route)
