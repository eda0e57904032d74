"""Agents for the acceptance tests, written as a user writes them: each shows one thing an agent may do."""

import asyncio
import time
from typing import Any, Literal

from pydantic import BaseModel, Field

import tollway


class Person(BaseModel):
    """Who is greeted."""

    name: str = Field(min_length=1, max_length=50)
    age: int = 0


class Greeting(BaseModel):
    """How."""

    text: str
    to: Person


class Mood(BaseModel):
    """What a model is asked to find."""

    mood: Literal["good", "bad"]


class Trouble(BaseModel):
    """What is to go wrong: in the first `times` attempts, so."""

    times: int = 1
    how: Literal["raise", "retry", "reject", "llm", "output", "cancel"] = "raise"
    after_s: float = 0.0


@tollway.agent
async def echo(run: tollway.Run, anything: Any) -> Any:
    """Give back what came."""
    return anything


@tollway.agent
async def nothing(run: tollway.Run) -> None:
    """Take nothing and give nothing."""


@tollway.agent(version="7", lane="interactive", priority_s=2)
async def greet(run: tollway.Run, person: Person) -> Greeting:
    """Typed at both ends."""
    assert isinstance(person, Person)
    return Greeting(text=f"Hello {person.name}", to=person)


@tollway.agent(max_attempts=3)
async def troubled(run: tollway.Run, trouble: Trouble) -> dict[str, Any]:
    """Fail in the way asked for, then succeed."""
    if run.attempt <= trouble.times:
        match trouble.how:
            case "retry":
                raise tollway.Retry(trouble.after_s, "not yet")
            case "reject":
                raise tollway.Reject("I will not")
            case "llm":
                await run.llm("hello", tier="no_such_tier")
            case "output":
                return {"bad": object()}
            case "cancel":
                raise asyncio.CancelledError
            case _:
                raise RuntimeError(f"attempt {run.attempt} failed")
    return {"attempt": run.attempt}


@tollway.agent(timeout=0.2, max_attempts=2)
async def hasty(run: tollway.Run) -> None:
    """Take longer than its timeout."""
    await asyncio.sleep(60)


@tollway.agent
async def slow(run: tollway.Run, seconds: float) -> str:
    """Take its time."""
    await asyncio.sleep(seconds)
    return "done"


@tollway.agent
async def ask(run: tollway.Run, text: str) -> dict[str, Any]:
    """One call to a model."""
    reply = await run.llm(text, max_tokens=20)
    return {"text": reply.text, "route": reply.route, "cost_usd": reply.cost_usd, "tokens": reply.usage.output_tokens}


@tollway.agent
async def judge(run: tollway.Run, text: str) -> str:
    """A typed answer of a model."""
    reply = await run.llm(text, returns=Mood, max_tokens=30, name="mood")
    assert isinstance(reply.parsed, Mood)
    return reply.parsed.mood


@tollway.agent
async def tell(run: tollway.Run, text: str) -> str:
    """Stream an answer."""
    parts = []
    stream = run.stream(text, max_tokens=30)
    async for part in stream:
        parts.append(part)
    assert stream.reply is not None
    assert stream.reply.text == "".join(parts)
    return "".join(parts)


@tollway.agent(max_attempts=2)
async def journey(run: tollway.Run, fail_first: bool) -> dict[str, Any]:
    """Tasks of both kinds and branches; the first attempt may fail after all of them."""
    first = await run.task("sync", _sync_time, 1)
    second = await run.task("async", _async_time, 2)
    branches = await run.gather(*(_branch(run, i) for i in range(3)))
    await run.progress({"done": 5, "of": 5})
    if fail_first and run.attempt == 1:
        raise RuntimeError("after the steps")
    return {"first": first, "second": second, "branches": branches}


async def _branch(run: tollway.Run, number: int) -> list[Any]:
    one = await run.task(f"branch {number}", _async_time, number)
    two = await run.task("again", _sync_time, number)
    return [one, two]


def _sync_time(number: int) -> list[Any]:
    return [number, time.time_ns()]


async def _async_time(number: int) -> list[Any]:
    return [number, time.time_ns()]


@tollway.agent
async def about(run: tollway.Run) -> dict[str, Any]:
    """What an agent knows of its run."""
    return {
        "id": run.id,
        "tenant": run.tenant,
        "agent": run.agent,
        "attempt": run.attempt,
        "metadata": run.metadata,
        "deadline": run.deadline.isoformat() if run.deadline else None,
        "limit_usd": run.budget.limit_usd,
        "remaining_usd": run.budget.remaining_usd,
    }


class Odd(BaseModel):
    """Which odd text is put where."""

    where: Literal["name", "task", "task error", "progress", "output", "error"]
    character: Literal["NUL", "surrogate"]


@tollway.agent(max_attempts=1)
async def odd_texts(run: tollway.Run, odd: Odd) -> Any:
    """Texts that a database cannot hold, in every place an agent may put one."""
    text = f"a{chr(0) if odd.character == 'NUL' else chr(0xD800)}b\"'\\"
    match odd.where:
        case "name":
            await run.task(text, _sync_time, 1)
        case "task":
            await run.task("odd", lambda: text)
        case "task error":
            await run.task("odd", _raise, text)
        case "progress":
            await run.progress({text: text})
        case "error":
            raise RuntimeError(text)
        case "output":
            return text
    return None


def _raise(text: str) -> None:
    raise RuntimeError(text)


class Payment(BaseModel):
    """What a payment does: its first attempt takes so long that a test can cut it, the next one is quick."""

    on_unknown: Literal["retry", "fail"]


@tollway.agent(max_attempts=2)
async def pay(run: tollway.Run, payment: Payment) -> str:
    """One task that must not be cut unnoticed, after one that is done."""
    await run.task("before", _sync_time, 1)
    return str(await run.task("pay", _charge, run.attempt, on_unknown=payment.on_unknown))


async def _charge(attempt: int) -> str:
    if attempt == 1:
        await asyncio.sleep(3600)
    return f"paid at attempt {attempt}"


@tollway.agent(max_attempts=1)
async def stray(run: tollway.Run) -> Any:
    """A step from a task of the agent's own making."""
    return await asyncio.create_task(_branch(run, 1))
