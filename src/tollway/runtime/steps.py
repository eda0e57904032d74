"""Steps of kind `llm`: numbered when called, looked up in the journal, else governed, with the journal as their books.

recorded as done?  -> the recorded result, nothing is done
else               -> the governor: kept answer, or hop after hop, each intended and settled (runtime/step_books.py)
no capacity        -> the run parks, and another takes its slot
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from tollway.domain.errors import LlmError
from tollway.domain.ids import IdMaker
from tollway.domain.llm import Caller, LlmRequest
from tollway.llm.books import Terms
from tollway.llm.governor import Governor
from tollway.llm.streaming import GovernedStream
from tollway.runtime.adapters import schema_of
from tollway.runtime.journal import RunJournal
from tollway.runtime.journal_steps import Step
from tollway.runtime.step_books import Recorded, StepBooks, decode_recorded
from tollway.telemetry.metrics import Metrics

_BAD_ANSWER_MAX = 4000


@dataclass(frozen=True, slots=True)
class LlmDefaults:
    """What an agent that does not say gets: output tokens."""

    max_tokens: int


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


class LlmSteps:
    """Steps of kind `llm`."""

    def __init__(self, governor: Governor, ids: IdMaker, defaults: LlmDefaults, metrics: Metrics) -> None:
        self._governor = governor
        self._metrics = metrics
        self._ids = ids
        self._defaults = defaults

    def ask(self, journal: RunJournal, ask: Ask) -> Coroutine[Any, Any, Recorded]:
        """Number the step now, and return what does it. Raises ValueError for what makes no sense."""
        if ask.cache not in ("off", "exact"):
            raise ValueError(f'cache must be "off" or "exact", not {ask.cache!r}')
        request, terms = self._request(ask), _terms(journal, ask)
        return self._ask(journal, journal.call("llm", ask.name), request, terms, ask.returns)

    def stream(self, journal: RunJournal, ask: Ask) -> "StreamedStep":
        """Number the step now, and return the iterator that does it."""
        request, terms = replace(self._request(ask), stream=True), _terms(journal, ask)
        return StreamedStep(self, journal, journal.call("llm", ask.name), request, terms)

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

    async def _ask(self, journal: RunJournal, step: Step, request: LlmRequest, terms: Terms, returns: Any) -> Recorded:
        known = recorded_answer(journal, step)
        if known is not None:
            return known
        books = self.books(journal, step, request.tier, returns)
        caller = caller_of(journal, step.name)
        loop, repaired = asyncio.get_running_loop(), False
        give_up_at = loop.time() + terms.timeout_s
        while True:
            try:
                result = await self._governor.complete(request, caller, books, terms)
            except LlmError as error:
                if error.awaits_money or (error.parks and terms.timeout_s == float("inf")):
                    await journal.stand_by(error)
                elif error.code == "invalid_answer" and not repaired and loop.time() < give_up_at:
                    repaired = True
                    request = _repairing(request, error)
                    terms = replace(terms, cache=False, timeout_s=give_up_at - loop.time())
                else:
                    raise
            else:
                assert books.recorded is not None, f"call on {result.route} came back"
                return books.recorded

    async def open(
        self, journal: RunJournal, step: Step, request: LlmRequest, terms: Terms, books: StepBooks
    ) -> GovernedStream:
        """Begin a streamed step; its first piece is there. Raises LlmError."""
        caller = caller_of(journal, step.name)
        while True:
            try:
                return await self._governor.stream(request, caller, books, terms)
            except LlmError as error:
                if not error.awaits_money and (not error.parks or terms.timeout_s != float("inf")):
                    raise
                await journal.stand_by(error)

    def books(self, journal: RunJournal, step: Step, tier: str, returns: Any = None) -> StepBooks:
        """The books of a step."""
        return StepBooks(journal, step, tier, returns, self._ids, self._metrics)


class StreamedStep:
    """An `llm` step whose text is passed on as it comes; a stream left early is recorded with the text so far."""

    def __init__(self, steps: LlmSteps, journal: RunJournal, step: Step, request: LlmRequest, terms: Terms) -> None:
        self._steps = steps
        self._journal = journal
        self._step = step
        self._request = request
        self._terms = terms
        self._books = steps.books(journal, step, request.tier)
        self._books.firm = True
        self._stream: GovernedStream | None = None

    @property
    def ended(self) -> bool:
        """Whether there is an answer."""
        return self._books.recorded is not None

    @property
    def recorded(self) -> Recorded:
        """The whole answer; only after the last piece."""
        if self._books.recorded is None:
            raise RuntimeError("the stream has not ended yet")
        return self._books.recorded

    async def next_text(self) -> str:
        """The next piece. Raises StopAsyncIteration after the last, LlmError when the stream breaks."""
        if self._books.recorded is not None:
            raise StopAsyncIteration
        if self._stream is None:
            known = recorded_answer(self._journal, self._step)
            if known is not None:
                self._books.recorded = known
                return known.text
            self._stream = await self._steps.open(self._journal, self._step, self._request, self._terms, self._books)
            self._journal.open_streams.append(self)
        return await self._advance(self._stream)

    async def aclose(self) -> None:
        """Close the connection, and record the text so far."""
        if self._stream is not None and self._books.recorded is None:
            await self._stream.aclose()
            self._forget()

    async def cut(self) -> None:
        """Close the connection, and record no answer."""
        if self._stream is not None and self._books.recorded is None:
            await self._stream.cut()
            self._forget()

    async def _advance(self, stream: GovernedStream) -> str:
        try:
            while True:
                _, deltas = await anext(stream)
                text = "".join(delta.text for delta in deltas if delta.kind == "text")
                if text:
                    return text
        except BaseException:
            self._forget()
            raise

    def _forget(self) -> None:
        if self in self._journal.open_streams:
            self._journal.open_streams.remove(self)


def recorded_answer(journal: RunJournal, step: Step) -> Recorded | None:
    """What the journal has of a step that was done before; None if it is still to do."""
    if step.recorded is None or step.recorded["state"] != "done":
        return None
    known = decode_recorded(step.recorded["result"])
    journal.stood_on(known.degraded)
    return known


def caller_of(journal: RunJournal, step: str) -> Caller:
    """Who asks, when a run does."""
    claim = journal.claim
    return Caller(
        claim.tenant,
        claim.lane,
        claim.agent,
        journal.version,
        step,
        journal.task_type,
        claim.tenant_weight,
        claim.key_id,
    )


def _terms(journal: RunJournal, ask: Ask) -> Terms:
    timeout_s = float("inf") if ask.timeout is None else _positive("timeout", ask.timeout)
    return Terms(timeout_s, ask.cache == "exact", again=journal.claim.errors > 0)


def _repairing(request: LlmRequest, error: LlmError) -> LlmRequest:
    """The same request with the answer that did not fit, and why, for one more try."""
    said = (
        f"Your last answer could not be used: {error}\nAnswer again, with JSON that fits the schema and nothing else."
    )
    return replace(request, messages=[*request.messages, {"role": "user", "content": said[:_BAD_ANSWER_MAX]}])


def _messages(prompt: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [dict(message) for message in prompt]


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be above 0, not {value!r}")
    return value
