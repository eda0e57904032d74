"""Agents that spend money."""

import tollway

Ticket = dict[str, str]


@tollway.agent(tier="fast", timeout=120, max_attempts=1)
async def spender(run: tollway.Run, ticket: Ticket) -> str:
    """One call, of at most twice what it takes."""
    return (await run.llm(f"Ticket {ticket['number']:>6}: what is it about?", max_tokens=16, cache="off")).text


@tollway.agent(tier="fast", timeout=120, max_attempts=1)
async def spender_of_many(run: tollway.Run, ticket: Ticket) -> dict[str, int]:
    """Five hundred calls at once; how many were made, and how many had no money left."""

    async def call(number: int) -> str:
        try:
            await run.llm(f"Ticket {number:>6}: what is it about?", max_tokens=16, cache="off")
        except tollway.LlmError as error:
            return error.code
        return "made"

    found = await run.gather(*(call(number) for number in range(500)))
    return {code: found.count(code) for code in set(found)}


@tollway.agent(tier="powerful", timeout=120, max_attempts=1)
async def careful(run: tollway.Run, ticket: Ticket) -> dict[str, object]:
    """One call whose answer says on which rungs it stood."""
    reply = await run.llm(f"Ticket {ticket['number']:>6}: what is it about?", max_tokens=64)
    return {"route": reply.route, "tokens": reply.usage.output_tokens, "cached": bool(reply.cached)}
