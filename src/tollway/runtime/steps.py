"""How steps are done: numbered and looked up, intended, done once, settled. One class a kind.

recorded as done?  -> the recorded result, nothing is done
intent             -> durable, with the worst case of its money reserved
the deed           -> the call, or the function
outcome            -> result or error, and what it really cost
"""

import asyncio
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import msgspec

from tollway import failpoints
from tollway.domain.errors import Fenced, LlmError
from tollway.domain.ids import IdMaker
from tollway.domain.llm import LlmRequest, ToolCall, Usage
from tollway.domain.texts import storable
from tollway.llm.calls import CallResult, Plan
from tollway.llm.gateway import Gateway
from tollway.llm.streams import CallStream
from tollway.record.journal import Entry, StepOutcome
from tollway.runtime.adapters import adapter_of, schema_of
from tollway.runtime.journal import RunJournal, Step
from tollway.telemetry.metrics import Metrics

_NOTHING = Usage()
_MESSAGE_MAX = 2000


class Recorded(msgspec.Struct, frozen=True):
    """An `llm` step's result as the journal keeps it."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    usage: Usage
    cost_nano: int
    route: str
    model: str
    stop_reason: str


_decode_recorded = msgspec.json.Decoder(Recorded).decode
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class LlmDefaults:
    """What an agent that does not say gets: output tokens, and seconds for a call."""

    max_tokens: int
    timeout_s: float


class Ask(msgspec.Struct, frozen=True):
    """What an agent asks of a model, as it said it; None where it did not say."""

    name: str
    tier: str
    prompt: str | Sequence[Mapping[str, Any]]
    returns: Any = None
    tools: Sequence[Mapping[str, Any]] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    cache: str = "exact"
    timeout: float | None = None


class _Call(msgspec.Struct, frozen=True):
    """A call under way: its step's number, its id, what was planned for it."""

    n: int
    id: UUID
    plan: Plan
    timeout_s: float


class LlmSteps:
    """Steps of kind `llm`."""

    def __init__(self, gateway: Gateway, ids: IdMaker, defaults: LlmDefaults, metrics: Metrics) -> None:
        self._gateway = gateway
        self._metrics = metrics
        self._ids = ids
        self._defaults = defaults

    def ask(self, journal: RunJournal, ask: Ask) -> Coroutine[Any, Any, Recorded]:
        """Number the step now, and return what does it. Raises ValueError for what makes no sense."""
        if ask.cache not in ("off", "exact"):
            raise ValueError(f'cache must be "off" or "exact", not {ask.cache!r}')
        return self._ask(journal, journal.call("llm", ask.name), self._request(ask), ask.returns, self._timeout_s(ask))

    def stream(self, journal: RunJournal, ask: Ask) -> "StreamedStep":
        """Number the step now, and return the iterator that does it."""
        request = replace(self._request(ask), stream=True)
        return StreamedStep(self, journal, journal.call("llm", ask.name), request, self._timeout_s(ask))

    def _request(self, ask: Ask) -> LlmRequest:
        return LlmRequest(
            ask.tier,
            _messages(ask.prompt),
            int(_positive("max_tokens", ask.max_tokens or self._defaults.max_tokens)),
            ask.temperature,
            None if ask.returns is None else schema_of(ask.returns),
            getattr(ask.returns, "__name__", "answer"),
            None if ask.tools is None else [dict(tool) for tool in ask.tools],
        )

    def _timeout_s(self, ask: Ask) -> float:
        return _positive("timeout", ask.timeout or self._defaults.timeout_s)

    async def _ask(
        self, journal: RunJournal, step: Step, request: LlmRequest, returns: Any, timeout_s: float
    ) -> Recorded:
        if step.recorded is not None and step.recorded["state"] == "done":
            return _decode_recorded(step.recorded["result"])
        call = await self.begin(journal, step, request, timeout_s)
        with self.accounted(journal, call):
            result = await self._gateway.execute(call.plan, str(call.id), call.timeout_s)
            if failpoints.armed:
                failpoints.hit("call.after")
        if returns is not None:
            self._check_answer(journal, call, result, returns)
        return self.done(journal, call, result)

    async def begin(self, journal: RunJournal, step: Step, request: LlmRequest, timeout_s: float) -> _Call:
        """Plan the call, reserve its worst case within the run's budget, and write the intent."""
        plan = self._gateway.plan(request)
        limit = journal.claim.budget_nano
        if limit is not None and journal.spent_nano + journal.reserved_nano + plan.reserve_nano > limit:
            raise LlmError(
                "budget_exhausted",
                f"the run's budget of {limit / 1e9:.6f} USD does not cover this call "
                f"({plan.reserve_nano / 1e9:.6f} USD at worst, {journal.spent_nano / 1e9:.6f} spent)",
                final=True,
            )
        call_id = self._ids.new()
        journal.reserved_nano += plan.reserve_nano
        try:
            n, durable = journal.intend(step, call_id, plan.reserve_nano, plan.route)
            await durable
        except BaseException:
            journal.reserved_nano -= plan.reserve_nano
            raise
        journal.begin(n)
        return _Call(n, call_id, plan, timeout_s)

    @contextmanager
    def accounted(self, journal: RunJournal, call: _Call) -> Iterator[None]:
        """Whatever way the deed fails, its outcome and its money are written, unless the run is handed back."""
        try:
            yield
        except LlmError as error:
            self._failed(journal, call, f"{error.code}: {error}", error)
            raise
        except asyncio.CancelledError:
            if not journal.hands_off:
                self._failed(journal, call, "cancelled", None)
            raise
        except (StopAsyncIteration, Fenced):
            raise
        except Exception as error:
            self._failed(journal, call, f"{type(error).__name__}: {error}", None)
            raise

    def open_stream(self, call: _Call) -> CallStream:
        """Open the call's stream."""
        return self._gateway.stream(call.plan, str(call.id), call.timeout_s)

    def done(self, journal: RunJournal, call: _Call, result: CallResult) -> Recorded:
        """Write the outcome of a call that came back whole."""
        completion = result.completion
        recorded = Recorded(
            completion.text,
            completion.tool_calls,
            completion.usage,
            result.cost_nano,
            result.route,
            completion.model,
            completion.stop_reason,
        )
        self._settle(journal, call, "done", result, _encode(recorded), None)
        return recorded

    def _check_answer(self, journal: RunJournal, call: _Call, result: CallResult, returns: Any) -> None:
        try:
            adapter_of(returns).validate_json(result.completion.text)
        except Exception as error:  # a type's own validator may raise anything
            message = storable(f"invalid_answer: the model's answer does not fit: {error}", _MESSAGE_MAX)
            self._settle(journal, call, "failed", result, None, message)
            raise LlmError("invalid_answer", message, route=result.route) from error

    def _settle(
        self, journal: RunJournal, call: _Call, state: str, result: CallResult, answer: bytes | None, error: str | None
    ) -> None:
        at = journal.moment()
        usage = result.completion.usage
        journal.reserved_nano -= call.plan.reserve_nano
        version = call.plan.price.version
        self._count(state, result)
        journal.settle(
            StepOutcome(call.n, state, at, answer, error, result.route, 1, usage, result.cost_nano),
            [Entry(call.id, "settle", call.n, result.route, result.model, version, result.cost_nano, usage, at)],
        )

    def _count(self, state: str, result: CallResult) -> None:
        metrics, usage, route = self._metrics, result.completion.usage, result.route
        metrics.steps.add("llm", state)
        metrics.llm_calls.add(route, "ok" if state == "done" else "invalid_answer")
        metrics.llm_tokens.add(route, "input", by=usage.input_tokens)
        metrics.llm_tokens.add(route, "output", by=usage.output_tokens)
        metrics.llm_cost_nano.add(route, by=result.cost_nano)
        metrics.llm_seconds.observe(result.latency_s, route)

    def _failed(self, journal: RunJournal, call: _Call, message: str, error: LlmError | None) -> None:
        """A call that failed. Its charge is known, or may be anything up to its worst case, or surely none.

        `error` None is a call cut off by us or by a fault of ours: the vendor may finish and charge it.
        """
        plan = call.plan
        journal.reserved_nano -= plan.reserve_nano
        if journal.fenced is not None:
            return
        usage = (error.usage if error is not None else None) or _NOTHING
        kind, nano, cost_nano = "unknown", plan.reserve_nano, 0
        if error is not None and error.cost_nano is not None:
            kind, nano, cost_nano = "settle", error.cost_nano, error.cost_nano
        elif error is not None and not error.billed:
            kind, nano = "release", 0
        at = journal.moment()
        self._metrics.llm_calls.add(plan.route, error.code if error is not None else "cancelled")
        self._metrics.steps.add("llm", "failed")
        journal.settle(
            StepOutcome(call.n, "failed", at, None, storable(message, _MESSAGE_MAX), plan.route, 1, usage, cost_nano),
            [Entry(call.id, kind, call.n, plan.route, plan.model, plan.price.version, nano, usage, at)],
        )


class StreamedStep:
    """An `llm` step whose text is passed on as it comes; a stream left early is recorded with the text so far."""

    def __init__(self, steps: LlmSteps, journal: RunJournal, step: Step, request: LlmRequest, timeout_s: float) -> None:
        self._steps = steps
        self._journal = journal
        self._step = step
        self._request = request
        self._timeout_s = timeout_s
        self._call: _Call | None = None
        self._stream: CallStream | None = None
        self._recorded: Recorded | None = None

    @property
    def recorded(self) -> Recorded:
        """The whole answer; only after the last piece."""
        if self._recorded is None:
            raise RuntimeError("the stream has not ended yet")
        return self._recorded

    async def next_text(self) -> str:
        """The next piece. Raises StopAsyncIteration after the last, LlmError when the stream breaks."""
        if self._recorded is not None:
            raise StopAsyncIteration
        step, journal = self._step, self._journal
        if step.recorded is not None and step.recorded["state"] == "done":
            self._recorded = _decode_recorded(step.recorded["result"])
            return self._recorded.text
        if self._call is None:
            self._call = await self._steps.begin(journal, step, self._request, self._timeout_s)
            self._stream = self._steps.open_stream(self._call)
            journal.open_streams.append(self)
        return await self._advance(self._call)

    async def aclose(self) -> None:
        """Close the connection, and record the text so far."""
        if self._call is None or self._stream is None or self._recorded is not None:
            return
        await self._stream.aclose()
        self._end(self._call)

    async def _advance(self, call: _Call) -> str:
        assert self._stream is not None
        try:
            with self._steps.accounted(self._journal, call):
                return await anext(self._stream)
        except StopAsyncIteration:
            self._end(call)
            raise
        except BaseException:
            self._forget()
            raise

    def _end(self, call: _Call) -> None:
        assert self._stream is not None
        self._recorded = self._steps.done(self._journal, call, self._stream.result)
        self._forget()

    def _forget(self) -> None:
        if self in self._journal.open_streams:
            self._journal.open_streams.remove(self)


def _messages(prompt: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [dict(message) for message in prompt]


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be above 0, not {value!r}")
    return value
