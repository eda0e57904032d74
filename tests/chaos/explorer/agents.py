"""The agents that the explorer runs; each says in its answer what its steps returned, so that repeats can be told."""

import os
import uuid

import tollway

Ticket = dict[str, str]


def mark(run_id: str, name: str) -> str:
    """Do something that must be seen to happen: a line in the file of executions. Returns a word no other has."""
    token = uuid.uuid4().hex
    line = f"{run_id} {name} {token}\n".encode()
    fd = os.open(os.environ["EXPLORER_EXECUTIONS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)
    return token


async def _ask(run: tollway.Run, ticket: Ticket, what: str) -> str:
    reply = await run.llm(f"{ticket['tag']}: {what}", max_tokens=8, cache="off", name=what)
    return reply.text


@tollway.agent(name="one_call", tier="fast", timeout=60)
async def one_call(run: tollway.Run, ticket: Ticket) -> list[str]:
    """One call."""
    return [await _ask(run, ticket, "first")]


@tollway.agent(name="three_calls", tier="fast", timeout=60)
async def three_calls(run: tollway.Run, ticket: Ticket) -> list[str]:
    """Three calls, one after the other."""
    return [await _ask(run, ticket, what) for what in ("first", "second", "third")]


@tollway.agent(name="branches", tier="fast", timeout=60)
async def branches(run: tollway.Run, ticket: Ticket) -> list[str]:
    """Three branches at once, one of them of two steps."""

    async def two() -> str:
        token: str = await run.task("mark", mark, run.id, "branch")
        return token + await _ask(run, ticket, "after")

    return await run.gather(_ask(run, ticket, "left"), _ask(run, ticket, "right"), two())


@tollway.agent(name="task_and_call", tier="fast", timeout=60)
async def task_and_call(run: tollway.Run, ticket: Ticket) -> list[str]:
    """A task, a call, a task."""
    before = await run.task("before", mark, run.id, "before")
    answer = await _ask(run, ticket, "between")
    await run.progress({"half": True})
    return [before, answer, await run.task("after", mark, run.id, "after")]


@tollway.agent(name="careful", tier="fast", timeout=60)
async def careful(run: tollway.Run, ticket: Ticket) -> list[str]:
    """A task that must never be done twice, between two calls."""
    first = await _ask(run, ticket, "first")
    token = await run.task("once", mark, run.id, "once", on_unknown="fail")
    return [first, token, await _ask(run, ticket, "last")]


@tollway.agent(name="careful_branches", tier="fast", timeout=60)
async def careful_branches(run: tollway.Run, ticket: Ticket) -> list[str]:
    """The same beside calls under way."""
    return await run.gather(
        _ask(run, ticket, "left"),
        run.task("once", mark, run.id, "once", on_unknown="fail"),
        _ask(run, ticket, "right"),
    )


@tollway.agent(name="flaky", tier="fast", timeout=60)
async def flaky(run: tollway.Run, ticket: Ticket) -> list[str]:
    """Fails at its first attempt, after a call."""
    first = await _ask(run, ticket, "first")
    if run.attempt == 1:
        raise tollway.Retry(0.05)
    return [first, await _ask(run, ticket, "second")]
