"""A streamed call: its pieces as they arrive, then the whole call with its usage. Closing it ends the request."""

import asyncio
import time
from collections import deque
from types import TracebackType
from typing import Self

from tollway.domain.errors import LlmError
from tollway.domain.llm import Delta
from tollway.llm.calls import CallResult, Plan, failure
from tollway.llm.channel import Upstream
from tollway.llm.providers.decoder import StreamDecoder

_DRAIN_S = 0.1


class CallStream:
    """Async iterator of text, or by `read` of all that comes. Exhausted or closed early, it has a `result`.

    A failure raises LlmError instead, after everything that came before it was given on.

    A stream that is cut, and one closed early, was billed by an amount nobody knows: the error says `billed`, and the
    result's usage is marked as estimated.
    """

    def __init__(self, plan: Plan, exchange: Upstream, decoder: StreamDecoder, first_byte_s: float) -> None:
        self._plan = plan
        self._exchange = exchange
        self._decoder = decoder
        self._first_byte_s = first_byte_s
        self._since = time.monotonic()
        self._pieces: deque[str] = deque()
        self._error: LlmError | None = None
        self._begun = False
        self._over = False
        self._result: CallResult | None = None

    @property
    def result(self) -> CallResult:
        """The call as it ended. Raises RuntimeError before that, and after a failure."""
        if self._result is None:
            raise RuntimeError("the stream has no result: it is not exhausted, or it failed")
        return self._result

    @property
    def so_far(self) -> CallResult | None:
        """The same, and also of a stream that was cut: what came until then, its usage estimated."""
        return self._result

    @property
    def fields(self) -> dict[bytes, bytes]:
        """The headers of the answer by small name; none before it began."""
        return self._exchange.fields

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while not self._pieces:
            got = await self.read()
            if got is None:
                raise StopAsyncIteration
            self._pieces.extend(piece.text for piece in got[1] if piece.kind == "text")
        return self._pieces.popleft()

    async def read(self) -> tuple[bytes, list[Delta]] | None:
        """The next bytes as the vendor sent them, and the pieces in them; None at the end, when there is a `result`.

        Raises LlmError as the iterator does. The last bytes may come up to 0.1 s late: with them the answer ends.
        """
        if not self._over:
            return await self._advance()
        error, self._error = self._error, None
        if error is not None:
            raise error
        return None

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

    async def _advance(self) -> tuple[bytes, list[Delta]]:
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
            deltas = self._decoder.feed(b"\n\n" if chunk is None else chunk)
            if self._decoder.done:
                return await self._finish(chunk, deltas)
            if chunk is None:
                raise LlmError("bad_response", "the stream ended before the answer did").charged()
            return chunk, deltas
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

    async def _finish(self, last: bytes | None, deltas: list[Delta]) -> tuple[bytes, list[Delta]]:
        """Read to the true end, so that the connection can be used again, but never wait for it long."""
        chunks = [] if last is None else [last]
        if last is not None:
            try:
                async with asyncio.timeout(_DRAIN_S):
                    while (chunk := await self._exchange.read()) is not None:
                        chunks.append(chunk)
                        deltas += self._decoder.feed(chunk)
            except (TimeoutError, LlmError):
                pass
        self._over = True
        await self._exchange.close()
        try:
            self._result = self._plan.result(self._decoder.completion(), time.monotonic() - self._since)
        except LlmError as error:
            # The refusal's own words go before it.
            error.route = self._plan.route
            self._error = error
        return b"".join(chunks), deltas
