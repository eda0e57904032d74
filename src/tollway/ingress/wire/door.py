"""The wire without a transport: requests are read, admitted, answered whole or as a stream; each answer's headers.

take ─▶ answer ─▶ Reply                    a transport calls these, and cancels them when its client is gone:
     └▶ stream ─▶ (headers, chunks)        what was begun upstream ends with them, and is accounted all the same
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from tollway.domain.clock import Clock
from tollway.domain.errors import LlmError, Problem
from tollway.domain.ids import IdMaker
from tollway.domain.llm import Caller, LlmRequest
from tollway.domain.money import usd
from tollway.ingress.bodies import check_content_type, check_depth
from tollway.ingress.problems import JSON_TYPE, Headers, Reply
from tollway.ingress.wire.catalogue import ModelCatalogue
from tollway.ingress.wire.desk import Desk, WireHead
from tollway.ingress.wire.faults import fault_of
from tollway.llm.accounts import Account, Guest
from tollway.llm.books import Terms
from tollway.llm.calls import CallResult
from tollway.llm.governor import Governor
from tollway.llm.providers.anthropic.inbound import InboundMessages
from tollway.llm.providers.inbound import Fault, Inbound, Limits, Stamp, bad, pieces_of
from tollway.llm.providers.openai.inbound_chat import InboundChat
from tollway.llm.providers.openai.inbound_embeddings import InboundEmbeddings
from tollway.llm.providers.openai.inbound_responses import InboundResponses
from tollway.llm.streaming import GovernedStream
from tollway.telemetry.metrics import Metrics

T = TypeVar("T")

_log = logging.getLogger(__name__)

FORMS: dict[str, Inbound] = {
    "/v1/chat/completions": InboundChat(),
    "/v1/responses": InboundResponses(),
    "/v1/embeddings": InboundEmbeddings(),
    "/v1/messages": InboundMessages(),
}
MODELS_PATH = "/v1/models"
EVENTS_TYPE = b"text/event-stream; charset=utf-8"
_CACHES = {b"off": False, b"exact": True}


@dataclass(frozen=True, slots=True)
class DoorOptions:
    """Bounds of the wire; `timeout_s` is for a whole request, waits included. `cache`: kept answers by default."""

    max_tokens_default: int
    timeout_s: float
    body_bytes_max: int = 4_194_304
    json_depth_max: int = 64
    cache: bool = False


@dataclass(frozen=True, slots=True)
class DoorServices:
    """What the door works with. `check_open` raises Problem while nothing new is taken, `knock` nothing of a caller."""

    governor: Governor
    desk: Desk
    catalogue: ModelCatalogue
    ids: IdMaker
    clock: Clock
    metrics: Metrics
    check_open: Callable[[], None]
    options: DoorOptions
    knock: Callable[[Caller, Terms], None] = lambda _caller, _terms: None


@dataclass(frozen=True, slots=True)
class Order:
    """A request that was taken."""

    form: Inbound
    request: LlmRequest
    guest: Guest
    account: Account
    terms: Terms


class Streamed:
    """A streamed answer about to be given: its headers, then its chunks. Always close it, begun or not."""

    __slots__ = ("_stream", "chunks", "headers")

    def __init__(
        self, headers: Headers, chunks: AsyncGenerator[bytes, None], stream: GovernedStream | None = None
    ) -> None:
        self.headers = headers
        self.chunks = chunks
        self._stream = stream

    async def aclose(self) -> None:
        """End it, and the call upstream with it; chunks that nobody began to read would not."""
        await self.chunks.aclose()
        if self._stream is not None:
            await self._stream.aclose()


class Door:
    """Takes and answers requests over the wire."""

    def __init__(self, services: DoorServices) -> None:
        self._services = services
        self.options = services.options
        self._limits = Limits(services.options.max_tokens_default, services.catalogue.output_tokens_max)

    def take(self, path: str, head: WireHead, body: bytes) -> Order:
        """Read a request and know its sender. Raises Problem, and then nothing is held or stored."""
        services, form = self._services, FORMS[path]
        services.check_open()
        guest = services.desk.identify(head)
        terms = Terms(self.options.timeout_s, cache=self._caches(head))
        services.knock(guest.caller, terms)
        check_content_type(head.content_type)
        check_depth(body, self.options.json_depth_max)
        request = form.read(body, self._limits)
        return Order(form, request, guest, guest.open_account(request), terms)

    async def answer(self, order: Order) -> Reply:
        """The whole answer to a request that is not streamed, refusals included."""
        try:
            result = await order.account.recorded()
            if result is None:
                result = await self._served(order, self._services.governor.complete)
        except Exception as error:
            return self.refusal(error, order.form, order.account)
        completion, request = result.completion, order.request
        if completion.body and completion.form == order.form.form:
            body = completion.body
        else:
            body = order.form.answer(completion, request, self._stamp(order))
        self._count(order.form, 200)
        headers = self._headers(order, result.route, result)
        headers.append((b"x-tollway-cost-usd", _dollars(result.cost_nano)))
        return Reply(200, body, headers)

    async def stream(self, order: Order) -> Streamed | Reply:
        """The answer to a streamed request, once its first piece is there; a refusal is a whole answer."""
        try:
            kept = await order.account.recorded()
            if kept is not None:
                return self._replay(order, kept)
            governor = self._services.governor
            kept = await self._served(order, governor.kept)
            if kept is not None:
                return self._replay(order, kept)
            stream = await self._served(order, governor.stream)
        except Exception as error:
            return self.refusal(error, order.form, order.account)
        order.account.streams(lambda: stream.so_far)
        self._count(order.form, 200)
        headers: Headers = [(b"content-type", EVENTS_TYPE), (b"cache-control", b"no-store")]
        headers += [(b"x-accel-buffering", b"no"), *self._headers(order, stream.plan.route, None)]
        headers += _degraded(stream.degraded)
        return Streamed(headers, self._chunks(order, stream), stream)

    def models(self, head: WireHead, name: str | None) -> Reply:
        """The list of tiers and models, or one of them."""
        form = FORMS["/v1/messages" if head.vendor_version is not None else "/v1/chat/completions"]
        try:
            self._services.desk.identify(head)
            catalogue = self._services.catalogue
            return Reply(200, catalogue.listed() if name is None else catalogue.one(name))
        except Exception as error:
            return self.refusal(error, form)

    def refusal(self, error: BaseException, form: Inbound, account: Account | None = None) -> Reply:
        """The answer to an error, in the wire's form."""
        fault, headers = self._fault(error, form)
        if account is not None and account.call_id:
            headers = [*headers, (b"x-tollway-call-id", account.call_id.encode())]
        self._count(form, fault.status)
        self._services.metrics.refusals.add(fault.code)
        return Reply(fault.status, form.error(fault), headers, JSON_TYPE)

    async def _chunks(self, order: Order, stream: GovernedStream) -> AsyncGenerator[bytes, None]:
        """The answer's bytes. However this ends, the call upstream ends with it and is accounted."""
        writer = order.form.stream(order.request, self._stamp(order))
        as_they_are = stream.plan.served.wire.in_kind(order.request)
        async with aclosing(stream):
            try:
                async for raw, deltas in stream:
                    chunk = writer.passed(raw) if as_they_are else writer.deltas(deltas) if deltas else b""
                    if chunk:
                        yield chunk
                yield writer.rest() if as_they_are else writer.end(stream.result.completion)
            except LlmError as error:
                order.account.gave_up()
                yield writer.broken(self._fault(error, order.form)[0])

    async def _served(self, order: Order, ask: Callable[[LlmRequest, Caller, Account, Terms], Awaitable[T]]) -> T:
        """What the governor gives; asked again when there was no capacity, if the account waits for it."""
        try:
            while True:
                try:
                    return await ask(order.request, order.guest.caller, order.account, order.terms)
                except LlmError as error:
                    await order.account.stand_by(error)
        except BaseException:
            order.account.gave_up()
            raise

    def _replay(self, order: Order, result: CallResult) -> Streamed:
        """A kept answer, streamed in whole pieces."""
        writer = order.form.stream(order.request, self._stamp(order))

        async def chunks() -> AsyncGenerator[bytes, None]:
            yield writer.deltas(pieces_of(result.completion)) + writer.end(result.completion)

        headers: Headers = [(b"content-type", EVENTS_TYPE), (b"cache-control", b"no-store")]
        self._count(order.form, 200)
        return Streamed([*headers, *self._headers(order, result.route, result)], chunks())

    def _fault(self, error: BaseException, form: Inbound) -> tuple[Fault, Headers]:
        found = fault_of(error, form.form)
        if found is None:
            _log.error("a request over the wire failed", exc_info=error)
            detail = "The request failed on our side and was logged; nothing can be said of its effect."
            found = fault_of(Problem("internal", detail), form.form)
            assert found is not None, "a problem is always told"
        return found

    def _headers(self, order: Order, route: str, result: CallResult | None) -> Headers:
        call_id = order.account.call_id.encode()
        kept = result is not None and (result.cached or not call_id)
        cache = b"hit" if kept else b"miss" if order.terms.cache else b"off"
        headers: Headers = [(b"x-tollway-route", route.encode("latin-1", "replace")), (b"x-tollway-cache", cache)]
        if call_id:
            headers += [(b"x-tollway-call-id", call_id), (b"x-request-id", call_id), (b"request-id", call_id)]
        return headers if result is None else headers + _degraded(result.degraded)

    def _caches(self, head: WireHead) -> bool:
        if head.cache is None:
            return self.options.cache
        wanted = _CACHES.get(head.cache)
        if wanted is None:
            raise bad("x-tollway-cache", "must be off or exact")
        return wanted

    def _stamp(self, order: Order) -> Stamp:
        services = self._services
        call_id = order.account.call_id.replace("-", "") or services.ids.new().hex
        return Stamp(call_id, int(services.clock.now()))

    def _count(self, form: Inbound, status: int) -> None:
        self._services.metrics.wire_requests.add(form.form, str(status))


def _degraded(rungs: Sequence[str]) -> Headers:
    return [(b"x-tollway-degraded", ", ".join(rungs).encode("latin-1", "replace"))] if rungs else []


def _dollars(nano: int) -> bytes:
    return f"{usd(nano):.9f}".rstrip("0").rstrip(".").encode()
