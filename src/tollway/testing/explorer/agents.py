"""The agents of the explorer's workloads: small, and each with something that a crash could break.

A task leaves its mark in the file that TOLLWAY_EXPLORER_MARKS names, by one atomic append, so that executions count.
"""

import os

import tollway


def mark(word: str) -> str:
    """Append one line to the file of marks."""
    file = os.open(os.environ["TOLLWAY_EXPLORER_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{word}\n".encode())
    finally:
        os.close(file)
    return word


@tollway.agent(name="explorer.one")
async def one(run: tollway.Run, text: str) -> list[str]:
    """One call."""
    return [(await run.llm(f"{text} 1", max_tokens=50)).text]


@tollway.agent(name="explorer.three")
async def three(run: tollway.Run, text: str) -> list[str]:
    """Three calls, one after the other."""
    return [(await run.llm(f"{text} {number}", max_tokens=50)).text for number in (1, 2, 3)]


@tollway.agent(name="explorer.gather")
async def gather(run: tollway.Run, text: str) -> list[str]:
    """Three calls at once, then one more."""
    replies = await run.gather(*(run.llm(f"{text} {number}", max_tokens=50) for number in (1, 2, 3)))
    last = await run.llm(f"{text} 4", max_tokens=50)
    return [*(reply.text for reply in replies), last.text]


@tollway.agent(name="explorer.task")
async def task(run: tollway.Run, text: str) -> list[str]:
    """A task that may be repeated, then a call."""
    word = await run.task("mark", mark, f"task {run.id}")
    await run.progress({"marked": word})
    return [(await run.llm(f"{text} 1", max_tokens=50)).text]


@tollway.agent(name="explorer.once")
async def once(run: tollway.Run, text: str) -> list[str]:
    """A task that must not be repeated, between two calls."""
    first = await run.llm(f"{text} 1", max_tokens=50)
    await run.task("mark", mark, f"once {run.id}", on_unknown="fail")
    return [first.text, (await run.llm(f"{text} 2", max_tokens=50)).text]


@tollway.agent(name="explorer.flaky")
async def flaky(run: tollway.Run, text: str) -> list[str]:
    """Fails after its first call, and succeeds in a later attempt."""
    first = await run.llm(f"{text} 1", max_tokens=50)
    if run.attempt == 1:
        raise tollway.Retry(0.05, "the first attempt always fails")
    return [first.text, (await run.llm(f"{text} 2", max_tokens=50)).text]


@tollway.agent(name="explorer.reject")
async def reject(run: tollway.Run, text: str) -> list[str]:
    """Says no after one call; a later attempt says no at once, leaving the call it never asks for again."""
    if run.attempt == 1:
        await run.llm(f"{text} 1", max_tokens=50)
    raise tollway.Reject("this agent always says no")
