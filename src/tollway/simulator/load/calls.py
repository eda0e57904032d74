"""Chat completions over HTTP from many keep-alive connections in closed loop: to a provider, or to Tollway's wire.

The same bytes go either way, so that the difference of two loads is what lies between them.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import msgspec

from tollway.simulator.load.latency import Latency
from tollway.simulator.load.plan import EXAMPLES_MAX
from tollway.simulator.load.wire import SERIAL_DIGITS, Answer, BadAnswer, read_answer, retry_after_s

_BODY_SHOWN_MAX = 300


class CallPlan(msgspec.Struct, frozen=True, kw_only=True, tag_field="load", tag="calls"):
    """What to do: each of `clients` posts a call, reads the whole answer, and repeats. Each prompt is unlike any other.

    After `measure_s` nothing new begins; what is under way is waited for, `drain_s` at most.
    """

    port: int
    api_key: str
    model: str
    texts: list[str]
    host: str = "127.0.0.1"
    clients: int = 32
    stream: bool = False
    max_tokens: int = 20
    warmup_s: float = 2.0
    measure_s: float = 8.0
    drain_s: float = 30.0
    first_serial: int = 0


class CallResult(msgspec.Struct, frozen=True, kw_only=True):
    """What happened. Latencies are of calls begun and answered within the window; counts are of the whole job."""

    window_s: float
    answered_in_window: int
    calls_per_s: float
    whole: Latency
    first_byte: Latency
    answered: int
    refused: dict[str, int]
    cut: int
    unanswered: int
    examples: list[str]

    @property
    def clean(self) -> bool:
        """Every call was answered with 200."""
        return self.answered > 0 and not (self.refused or self.cut or self.unanswered)


class CallGenerator:
    """Carries out one plan, once."""

    def __init__(
        self,
        plan: CallPlan,
        on_mark: Callable[[str], None] = lambda _: None,
        on_progress: Callable[[int, int, int], None] = lambda *_: None,
    ) -> None:
        self._plan = plan
        self._on_mark = on_mark
        self._on_progress = on_progress
        self._parts = [_parts(plan, text) for text in plan.texts]
        self._serial = plan.first_serial
        self._window = (float("inf"), float("inf"))
        self._whole: list[float] = []
        self._first: list[float] = []
        self._answered = 0
        self._refused: Counter[str] = Counter()
        self._cut = 0
        self._examples: list[str] = []
        self._busy = 0
        self._drained = asyncio.Event()
        self.stopping = False

    async def run(self) -> CallResult:
        """Load, measure, stop. Raises OSError when nothing listens at the beginning."""
        plan, loop = self._plan, asyncio.get_running_loop()
        callers = [Caller(self) for _ in range(plan.clients)]
        try:
            for caller in callers:
                await loop.create_connection(lambda caller=caller: caller, plan.host, plan.port)  # type: ignore[misc]
            began = time.monotonic()
            self._window = (began + plan.warmup_s, began + plan.warmup_s + plan.measure_s)
            for caller in callers:
                caller.ask()
            await self._until(self._window[0])
            self._on_mark("begin")
            before, since = self._answered, time.monotonic()
            await self._until(self._window[1])
            self._on_mark("end")
            answered, window_s = self._answered - before, time.monotonic() - since
            self.stopping = True
            if self._busy:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._drained.wait(), plan.drain_s)
            return self._result(window_s, answered)
        finally:
            self.stopping = True
            for caller in callers:
                caller.close()
            await asyncio.sleep(0)

    def request(self) -> bytes:
        """The bytes of the next call."""
        self._busy += 1
        serial = self._serial
        self._serial = serial + 1
        before, after = self._parts[serial % len(self._parts)]
        return b"%b%09d%b" % (before, serial, after)

    def answered(self, answer: Answer, asked_at: float, first_at: float) -> float:
        """A call came back; for how many seconds its caller pauses."""
        now = time.monotonic()
        self._over()
        if answer.status != 200:
            self._refused[str(answer.status)] += 1
            self._example(answer.body)
            return retry_after_s(answer.head)
        self._answered += 1
        if asked_at >= self._window[0] and now < self._window[1]:
            self._whole.append(now - asked_at)
            self._first.append(first_at - asked_at)
        return 0.0

    def broken(self, why: str) -> None:
        """A call was cut, or its answer cannot be read."""
        self._over()
        self._cut += 1
        self._example(why.encode())

    def _over(self) -> None:
        self._busy -= 1
        if self.stopping and not self._busy:
            self._drained.set()

    def _example(self, body: bytes) -> None:
        if len(self._examples) < EXAMPLES_MAX:
            self._examples.append(body[:_BODY_SHOWN_MAX].decode("utf-8", "replace"))

    async def _until(self, at: float) -> None:
        while (left_s := at - time.monotonic()) > 0:
            self._on_progress(self._answered, self._answered, self._busy)
            await asyncio.sleep(min(1.0, left_s))

    def _result(self, window_s: float, answered: int) -> CallResult:
        return CallResult(
            window_s=round(window_s, 3),
            answered_in_window=answered,
            calls_per_s=round(answered / window_s, 1),
            whole=Latency.of(self._whole),
            first_byte=Latency.of(self._first),
            answered=self._answered,
            refused=dict(self._refused),
            cut=self._cut,
            unanswered=self._busy,
            examples=self._examples,
        )


class Caller(asyncio.Protocol):
    """One keep-alive connection with one call at a time on it."""

    __slots__ = ("_asked_at", "_buffer", "_first_at", "_load", "_transport")

    def __init__(self, load: CallGenerator) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._asked_at = 0.0
        self._first_at = 0.0

    def ask(self) -> None:
        """Make a call, unless the job is ending."""
        if self._load.stopping or self._transport is None:
            return
        self._first_at = 0.0
        self._asked_at = time.monotonic()
        self._transport.write(self._load.request())

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._asked_at and not self._load.stopping:
            self._load.broken(f"the connection was cut: {exc}")

    def data_received(self, data: bytes) -> None:
        if not self._first_at:
            self._first_at = time.monotonic()
        self._buffer += data
        try:
            answer = read_answer(self._buffer)
        except BadAnswer as error:
            self._asked_at = 0.0
            self._load.broken(str(error))
            self.close()
            return
        if answer is None:
            return
        self._buffer = self._buffer[answer.end :]
        pause_s = self._load.answered(answer, self._asked_at, self._first_at)
        self._asked_at = 0.0
        if pause_s:
            asyncio.get_running_loop().call_later(pause_s, self.ask)
        else:
            self.ask()


def _parts(plan: CallPlan, text: str) -> tuple[bytes, bytes]:
    """A request around its serial number."""
    mark = "0" * SERIAL_DIGITS
    prompt = f"Which team should answer this customer? {text} #{mark}"
    wanted = {"model": plan.model, "messages": [{"role": "user", "content": prompt}], "max_tokens": plan.max_tokens}
    if plan.stream:
        wanted |= {"stream": True, "stream_options": {"include_usage": True}}
    body = msgspec.json.encode(wanted)
    cut = body.rindex(mark.encode())
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\n"
        f"Authorization: Bearer {plan.api_key}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body[:cut], body[cut + SERIAL_DIGITS :]
