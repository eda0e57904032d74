"""`Run`: what an agent is given. Every paid or outside thing it does goes through here, as a journaled step."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol, TypeVar
from uuid import UUID

import msgspec

from tollway.domain.llm import ToolCall, Usage
from tollway.domain.money import usd
from tollway.runtime.adapters import parse
from tollway.runtime.journal import RunJournal
from tollway.runtime.scope import Scope, scope_now
from tollway.runtime.step_books import Recorded
from tollway.runtime.steps import Ask, LlmSteps, StreamedStep
from tollway.runtime.task_books import declared_nano
from tollway.runtime.tasks import Task, TaskSteps
from tollway.runtime.wire import RunWire

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer. `parsed` is the `returns=` type, `cost_usd` what was paid for it, `route` who served it."""

    text: str
    parsed: Any
    tool_calls: tuple[ToolCall, ...]
    usage: Usage
    cost_usd: float
    route: str
    cached: bool = False
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Budget:
    """A run's own budget, dollars; `limit_usd` is None when none was set."""

    limit_usd: float | None
    spent_usd: float

    @property
    def remaining_usd(self) -> float | None:
        """What is left, or None without a limit."""
        return None if self.limit_usd is None else max(0.0, self.limit_usd - self.spent_usd)


@dataclass(frozen=True, slots=True)
class RunServices:
    """What a run's steps need of its worker."""

    llm: LlmSteps
    tasks: TaskSteps
    tokens: "TokenSink"
    random: Callable[[], float]
    loop: asyncio.AbstractEventLoop
    wire: RunWire | None = None


class TokenSink(Protocol):
    """Where streamed tokens go when somebody watches the run."""

    def token(self, run_id: str, text: str) -> None:
        """Pass text on to whoever watches, or drop it."""

    def written(self, run_id: UUID) -> None:
        """There are new events of a run."""


class Run:
    """One attempt of a run, as its agent sees it."""

    def __init__(self, journal: RunJournal, tier: str, deadline: datetime | None, services: RunServices) -> None:
        claim = journal.claim
        self.id = str(claim.run_id)
        self.tenant = claim.tenant
        self.agent = claim.agent
        self.attempt = claim.attempt
        self.deadline = deadline
        self.metadata: dict[str, Any] = msgspec.json.decode(claim.metadata) if claim.metadata else {}
        self._journal = journal
        self._tier = tier
        self._services = services

    @property
    def budget(self) -> Budget:
        """What this run may spend and has spent so far."""
        limit = self._journal.claim.budget_nano
        return Budget(None if limit is None else usd(limit), usd(self._journal.spent_nano))

    @property
    def wire(self) -> dict[str, str]:
        """An OpenAI and Anthropic endpoint for frameworks: `{base_url, api_key}`. Each call there is a step of the run.

        The key holds for this attempt. Whoever calls must not block the event loop meanwhile: the endpoint runs in it.
        """
        if self._services.wire is None:
            raise RuntimeError("this process does not serve the wire")
        return self._services.wire.open(self._journal)

    def llm(
        self,
        prompt: str | Sequence[Mapping[str, Any]],
        *,
        tier: str | None = None,
        returns: Any = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        cache: str = "exact",
        timeout: float | None = None,
        name: str = "llm",
    ) -> Coroutine[Any, Any, Reply]:
        """Ask a model: a prompt, or messages in the OpenAI chat form. Await it for the `Reply`.

        `returns` is a type the answer must fit (`reply.parsed`); `timeout` is seconds for all of it, waiting and
        further routes included. Raises LlmError.
        """
        ask = Ask(name, tier or self._tier, prompt, returns, tools, max_tokens, temperature, cache, timeout)
        asked = self._services.llm.ask(self._journal, ask)
        return self._reply(asked, returns)

    def stream(
        self,
        prompt: str | Sequence[Mapping[str, Any]],
        *,
        tier: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        timeout: float | None = None,
        name: str = "stream",
    ) -> "ReplyStream":
        """Ask a model and iterate over its text as it comes; afterwards `.reply` is the whole `Reply`."""
        ask = Ask(
            name,
            tier or self._tier,
            prompt,
            max_tokens=max_tokens,
            temperature=temperature,
            cache="off",
            timeout=timeout,
        )
        source = self._services.llm.stream(self._journal, ask)
        return ReplyStream(source, self.id, self._services.tokens)

    def task(
        self,
        name: str,
        fn: Callable[..., Any],
        *args: Any,
        cache_ttl: float | None = None,
        on_unknown: str = "retry",
        dependency: str | None = None,
        optional: bool = False,
        cost_usd: float | Decimal = 0,
    ) -> Coroutine[Any, Any, Any]:
        """Journal a function: it runs once, and a replay returns what it returned (as JSON carries it).

        Async functions run in the loop, others in a thread. `on_unknown` says what happens when the worker was lost
        between the intent and the outcome: "retry" runs it again, "fail" fails the run (StepUnknown).

        With `cache_ttl` (seconds) what it returned is given again meanwhile, to every run of this tenant and this
        version of the agent that asks for the task of this name with the same arguments, which must be JSON.

        `dependency` names the service that the function calls. What becomes of the calls feeds its breaker; while that
        is open the run parks here, or, where the task is `optional`, goes on without it: the task is skipped, and None
        returned.

        `cost_usd` is what each call of the function costs, as of a paid API: reserved within the run's budget before
        it (LlmError `budget_exhausted`), and in the ledger once it has begun, whatever came of it.
        """
        cost_nano = declared_nano(cost_usd)
        task = Task(name, fn, args, on_unknown, cache_ttl, dependency, optional, cost_nano)
        return self._services.tasks.do(self._journal, task)

    async def gather(self, *awaitables: Awaitable[Any]) -> list[Any]:
        """Await several at once; results in order. Each branch numbers its own steps, so that a replay fits.

        The first error cancels the other branches and is raised.
        """
        scope = scope_now.get()
        if scope is None or scope.owner is not asyncio.current_task():
            for awaitable in awaitables:
                if inspect.iscoroutine(awaitable):
                    awaitable.close()
            raise RuntimeError("run.gather must be called from the run's own task or from a branch of a gather")
        scope.count += 1
        tasks = [
            asyncio.ensure_future(_branch(awaitable, f"{scope.prefix}{scope.count}.{index}."))
            for index, awaitable in enumerate(awaitables, 1)
        ]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def progress(self, data: Any) -> None:
        """Tell whoever watches how far the run is: any JSON value, kept as an event."""
        self._journal.tell("progress", msgspec.json.encode(data).decode(), "agent")

    async def _reply(self, asked: "Coroutine[Any, Any, Recorded]", returns: Any) -> Reply:
        recorded = await asked
        return reply_from(recorded, parse(returns, recorded.text) if returns is not None else None)


async def _branch(awaitable: Awaitable[Value], prefix: str) -> Value:
    scope_now.set(Scope(prefix, owner=asyncio.current_task()))
    return await awaitable


class ReplyStream:
    """The text of a streamed answer, piece by piece; `reply` is the whole of it once it has ended."""

    def __init__(self, source: StreamedStep, run_id: str, tokens: TokenSink) -> None:
        self._source = source
        self._run_id = run_id
        self._tokens = tokens
        self.reply: Reply | None = None

    def __aiter__(self) -> "ReplyStream":
        return self

    async def __anext__(self) -> str:
        try:
            text = await self._source.next_text()
        except StopAsyncIteration:
            self.reply = reply_from(self._source.recorded, None)
            raise
        self._tokens.token(self._run_id, text)
        return text

    async def aclose(self) -> None:
        """Stop listening: what came so far is recorded as the answer. One that failed, or never began, has none."""
        await self._source.aclose()
        if self._source.ended:
            self.reply = reply_from(self._source.recorded, None)


def reply_from(recorded: Recorded, parsed: Any) -> Reply:
    """A recorded answer as the agent sees it."""
    return Reply(
        recorded.text,
        parsed,
        recorded.tool_calls,
        recorded.usage,
        usd(recorded.cost_nano),
        recorded.route,
        bool(recorded.cached),
        recorded.degraded,
    )
