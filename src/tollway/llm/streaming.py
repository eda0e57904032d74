"""A governed stream: chunks as the vendor sent them with the pieces in them, then the whole call, accounted."""

from collections.abc import Callable
from typing import Self

from tollway.domain.llm import Delta
from tollway.llm.calls import CallResult, Plan
from tollway.llm.hop import Hop
from tollway.llm.streams import CallStream


class GovernedStream:
    """Async iterator of (raw bytes, deltas). Exhausted or closed early it has a `result`; a failure raises LlmError.

    `on_whole` hears of one that was read to its end.
    """

    def __init__(self, hop: Hop, stream: CallStream) -> None:
        self._hop = hop
        self._stream = stream
        self._first: tuple[bytes, list[Delta]] | None = None
        self._result: CallResult | None = None
        self._over = False
        self.on_whole: Callable[[CallResult], None] | None = None

    @property
    def plan(self) -> Plan:
        """The call that streams."""
        return self._hop.plan

    @property
    def call_id(self) -> str:
        """Its id."""
        return str(self._hop.call_id)

    @property
    def degraded(self) -> tuple[str, ...]:
        """The rungs its answer stands on."""
        return self._hop.degraded

    @property
    def result(self) -> CallResult:
        """The call as it ended. Raises RuntimeError before that, and after a failure."""
        if self._result is None:
            raise RuntimeError("the stream has no result: it is not exhausted, or it failed")
        return self._result

    @property
    def so_far(self) -> CallResult | None:
        """What came of a stream that was cut while it was read, its usage estimated; None where nothing came."""
        return self._stream.so_far

    async def open(self) -> None:
        """Send the request and wait for the first chunk that says anything. Raises LlmError."""
        raw = b""
        while self._first is None:
            chunk = await self._read()
            if chunk is None:
                self._first = (raw, [])
                return
            raw += chunk[0]
            if chunk[1]:
                self._first = (raw, chunk[1])
                self._hop.told(self._stream.fields)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[bytes, list[Delta]]:
        first, self._first = self._first, None
        if first is not None:
            return first
        if self._over:
            raise StopAsyncIteration
        chunk = await self._read()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """End the call now: what came so far is its answer. May be called at any time, and twice.

        Raises LlmError where the vendor's last words, not read yet, were a failure.
        """
        if self._over:
            return
        self._over = True
        with self._hop.accounted():
            await self._stream.aclose()
            await self._stream.read()  # nothing comes any more, but for that failure
        self._result = self._hop.done(self._stream.result)

    async def cut(self) -> None:
        """End the call now; what came so far is no answer, and may be billed. May be called at any time, and twice."""
        if self._over:
            return
        self._over = True
        self._hop.cut()
        await self._stream.aclose()

    async def _read(self) -> tuple[bytes, list[Delta]] | None:
        self._hop.goes_on()
        try:
            with self._hop.accounted():
                chunk = await self._stream.read()
        except BaseException:
            self._over = True
            raise
        self._hop.rests()
        if chunk is None:
            self._over = True
            self._result = self._hop.done(self._stream.result)
            if self.on_whole is not None:
                self.on_whole(self._result)
        return chunk
