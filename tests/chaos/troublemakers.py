"""Agents that harm the process they run in."""

import asyncio
import os
import signal
import time

import tollway

Ticket = dict[str, str]


@tollway.agent(name="patient", tier="fast", timeout=60)
async def patient(run: tollway.Run, ticket: Ticket) -> str:
    """Calls, rests, calls: there is always one under way."""
    await run.llm(f"{ticket['tag']}: first", max_tokens=8, cache="off")
    await asyncio.sleep(0.2)
    return (await run.llm(f"{ticket['tag']}: second", max_tokens=8, cache="off")).text


@tollway.agent(name="blocks_3_s", tier="fast", timeout=60)
async def blocks_3_s(run: tollway.Run, ticket: Ticket) -> int:
    """Stops the loop for three seconds."""
    time.sleep(3)
    return run.attempt


@tollway.agent(name="blocks_once", tier="fast", timeout=60)
async def blocks_once(run: tollway.Run, ticket: Ticket) -> int:
    """Stops the loop for a minute at its first attempt."""
    if run.attempt == 1:
        time.sleep(60)
    return run.attempt


@tollway.agent(name="kills_its_process", tier="fast", timeout=60)
async def kills_its_process(run: tollway.Run, ticket: Ticket) -> str:
    """Poison."""
    await run.llm(f"{ticket['tag']}: last words", max_tokens=8, cache="off")
    os.kill(os.getpid(), signal.SIGKILL)
    return "unreachable"
