"""A streamed call: pieces of text as they arrive, then the whole call with its usage. Closing it ends the request."""

import asyncio
import time
from collections import deque
from types import TracebackType
from typing import Self

from tollway.domain.errors import LlmError
from tollway.llm.calls import CallResult, Plan, failure
from tollway.llm.providers.wire import StreamDecoder
from tollway.llm.transport import Exchange

_DRAIN_S = 0.1


class CallStream:
    """Async iterator of text. Exhausted or closed early, it has a `result`; a failure raises LlmError instead.

    A stream that is cut, and one closed early, was billed by an amount nobody knows: the error says `billed`, and the
    result's usage is marked as estimated.
    """

    def __init__(self, plan: Plan, exchange: Exchange, decoder: StreamDecoder, first_byte_s: float) -> None:
        self._plan = plan
        self._exchange = exchange
        self._decoder = decoder
        self._first_byte_s = first_byte_s
        self._since = time.monotonic()
        self._pieces: deque[str] = deque()
        self._begun = False
        self._over = False
        self._result: CallResult | None = None

    @property
    def result(self) -> CallResult:
        """The call as it ended. Raises RuntimeError before that, and after a failure."""
        if self._result is None:
            raise RuntimeError("the stream has no result: it is not exhausted, or it failed")
        return self._result

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while not self._pieces:
            if self._over:
                raise StopAsyncIteration
            await self._advance()
        return self._pieces.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the call now. May be called at any time, and twice."""
        if self._over:
            return
        self._over = True
        self._pieces.clear()
        await self._exchange.close()
        if self._begun:
            self._result = self._plan.priced(self._decoder.completion(), time.monotonic() - self._since)

    async def _advance(self) -> None:
        """Read the next chunk; at the end, or on any failure, end the exchange."""
        try:
            if self._begun:
                chunk = await self._exchange.read()
            else:
                self._begun = True
                chunk = await self._exchange.first(self._first_byte_s)
                if not 200 <= self._exchange.status < 300:
                    body = await self._exchange.read_all(chunk)
                    raise failure(self._exchange.status, body, self._exchange.retry_after_s)
            self._pieces.extend(self._decoder.feed(b"\n\n" if chunk is None else chunk))
            if self._decoder.done:
                await self._finish(read_on=chunk is not None)
            elif chunk is None:
                raise LlmError("bad_response", "the stream ended before the answer did").charged()
        except LlmError as error:
            self._over = True
            await self._exchange.close()
            error.route = self._plan.route
            if error.billed and error.usage is None:
                error.usage = self._decoder.completion().usage
            raise
        except BaseException:
            await self.aclose()
            raise

    async def _finish(self, read_on: bool) -> None:
        """Read to the true end, so that the connection can be used again, but never wait for it long."""
        if read_on:
            try:
                async with asyncio.timeout(_DRAIN_S):
                    while (chunk := await self._exchange.read()) is not None:
                        self._decoder.feed(chunk)
            except (TimeoutError, LlmError):
                pass
        self._over = True
        await self._exchange.close()
        self._result = self._plan.result(self._decoder.completion(), time.monotonic() - self._since)
