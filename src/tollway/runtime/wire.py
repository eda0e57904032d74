"""`run.wire`: an OpenAI and Anthropic endpoint for the frameworks a run uses. Each call there is a step of the run.

A key is made for one attempt and dies with it. Frameworks call in whatever order they like, so a step is found by what
it asks: its path is `wire:`, a hash of the request, and which of its like it is. A replay that asks the same is given
the recorded answer; one that failed is the same step when it is asked again.
"""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from uuid import UUID

from tollway.domain.budgets import Stood
from tollway.domain.errors import LlmError
from tollway.domain.ids import IdMaker
from tollway.domain.llm import Completion, LlmRequest
from tollway.llm.accounts import Guest
from tollway.llm.calls import CallResult, Plan
from tollway.runtime.journal import RunJournal
from tollway.runtime.step_books import Recorded, StepBooks
from tollway.runtime.steps import caller_of, recorded_answer
from tollway.telemetry.metrics import Metrics

KEY_PREFIX = "tw_run_"
_HASH_CHARS = 12
_KEY_BYTES = 24


class RunWire:
    """The keys of the attempts that a worker executes just now; `begin_serving` tells where they are taken."""

    def __init__(self, ids: IdMaker, metrics: Metrics, begin_serving: Callable[[], str]) -> None:
        self._ids = ids
        self._metrics = metrics
        self._begin_serving = begin_serving
        self._open: dict[str, _Attempt] = {}
        self._keys: dict[int, str] = {}

    def open(self, journal: RunJournal) -> dict[str, str]:
        """Where a framework may call, and with which key: `{base_url, api_key}`; the same for the whole attempt."""
        key = self._keys.get(id(journal))
        if key is None:
            key = self._keys[id(journal)] = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
            self._open[key] = _Attempt(journal, self._ids, self._metrics)
        return {"base_url": self._begin_serving(), "api_key": key}

    def close(self, journal: RunJournal) -> None:
        """The attempt is over, and so is its key; one that has none is nothing."""
        key = self._keys.pop(id(journal), None)
        if key is not None:
            del self._open[key]

    def guest(self, key: str) -> Guest | None:
        """Whose key this is; None when it is nobody's any more."""
        attempt = self._open.get(key)
        return None if attempt is None else Guest(caller_of(attempt.journal, "wire"), attempt.account)


class _Attempt:
    """The calls of one attempt of a run."""

    def __init__(self, journal: RunJournal, ids: IdMaker, metrics: Metrics) -> None:
        self.journal = journal
        self._ids = ids
        self._metrics = metrics
        self._failed: dict[str, list[StepAccount]] = {}

    def account(self, request: LlmRequest) -> "StepAccount":
        """The account of a request: that of its like that failed before, else a step of its own. Raises Fenced."""
        form, digest = _content(request)
        again = self._failed.get(digest)
        if again:
            return again.pop()
        step = self.journal.call_like(digest, form)
        books = StepBooks(self.journal, step, request.tier, None, self._ids, self._metrics)
        books.firm = request.stream
        return StepAccount(self.journal, books, recorded_answer(self.journal, step), self._to_repeat(digest))

    def _to_repeat(self, digest: str) -> "Callable[[StepAccount], None]":
        return lambda account: self._failed.setdefault(digest, []).append(account)


class StepAccount:
    """Implements `llm.accounts.Account` for one step of a run."""

    __slots__ = ("_books", "_journal", "_known", "_on_failed", "_so_far", "call_id")

    def __init__(
        self,
        journal: RunJournal,
        books: StepBooks,
        known: Recorded | None,
        on_failed: "Callable[[StepAccount], None]",
    ) -> None:
        self._journal = journal
        self._books = books
        self._known = known
        self._on_failed = on_failed
        self._so_far: Callable[[], CallResult | None] | None = None
        self.call_id = ""

    async def recorded(self) -> CallResult | None:
        """The answer of an earlier attempt, which costs nothing more."""
        return None if self._known is None else _result(self._known)

    def streams(self, so_far: Callable[[], CallResult | None]) -> None:
        """A stream that is left early is recorded with what came, for that is what the framework has seen.

        Not so where the attempt was stopped and comes back: then the framework is to see the whole.
        """
        self._so_far = so_far

    async def stand_by(self, error: LlmError) -> None:
        """The run parks, unless other calls of it are under way. Raises any other error."""
        if not error.parks and not error.awaits_money:
            raise error
        await self._journal.stand_by(error)

    async def intend(self, plan: Plan) -> UUID:
        """The step's intent. Raises LlmError, Fenced."""
        self._so_far = None
        call_id = await self._books.intend(plan)
        self.call_id = str(call_id)
        return call_id

    def settle(self, plan: Plan, call_id: UUID, result: CallResult) -> None:
        """The step is done."""
        self._books.settle(plan, call_id, result)

    def fail(self, plan: Plan, call_id: UUID, error: LlmError | None) -> None:
        """The call failed."""
        came = None if error is not None or self._journal.comes_back or self._so_far is None else self._so_far()
        if came is not None:
            self._books.settle(plan, call_id, came)
            return
        self._books.fail(plan, call_id, error)

    def stand_on(self, stood: Sequence[Stood], *, refused: bool = False) -> Sequence[Stood]:
        """The run notes them."""
        return self._books.stand_on(stood, refused=refused)

    async def hit(self, result: CallResult) -> None:
        """The step is done without a call."""
        await self._books.hit(result)

    def gave_up(self) -> None:
        """Whoever asks the same again goes on with this step, unless it has an answer after all."""
        if self._books.recorded is None:
            self._on_failed(self)


def _content(request: LlmRequest) -> tuple[str, str]:
    """The form of a request, and a hash of all that its client sent."""
    sent = request.sent
    assert sent is not None, "what comes over the wire was sent"
    digest = hashlib.sha256(sent.form.encode())
    for name, value in sorted(sent.fields.items()):
        digest.update(b"\0%b\0%b" % (name.encode(), bytes(value)))
    return sent.form, digest.hexdigest()[:_HASH_CHARS]


def _result(known: Recorded) -> CallResult:
    completion = Completion(
        known.text,
        known.tool_calls,
        known.usage,
        known.stop_reason,
        known.model,
        known.reasoning,
        known.vectors,
        known.body,
        known.form,
    )
    return CallResult(completion, 0, known.route, "", known.model, 0.0, cached="recorded", degraded=known.degraded)
