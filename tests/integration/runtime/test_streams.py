"""Streamed answers: whole, left early, cut, and replayed."""

import asyncio
import json

import asyncpg
import pytest

import tollway
from runtime_kit import ended, ledger_of, steps_of, until, until_true
from tollway.runtime.registry import Registry
from tollway.simulator.provider import RunningSim


class Streams:
    """What a streaming agent saw, attempt by attempt."""

    def __init__(self) -> None:
        self.pieces: list[list[str]] = []
        self.half = asyncio.Event()
        self.open = asyncio.Event()


async def test_a_stream_is_read_whole_and_replayed_whole(
    agents: Registry, make_crew, sim: RunningSim, admin: asyncpg.Connection
) -> None:
    """The pieces make up the recorded text; a replay yields it at once without a call."""
    seen = Streams()

    @tollway.agent
    async def talker(run: tollway.Run) -> str:
        pieces: list[str] = []
        seen.pieces.append(pieces)
        stream = run.stream("hello", tier="fast")
        async for piece in stream:
            pieces.append(piece)
        assert stream.reply is not None
        await run.progress("streamed")
        seen.half.set()
        await seen.open.wait()
        return stream.reply.text

    async with make_crew() as first:
        run_id = await first.submit("talker")
        await seen.half.wait()
        await until_true(lambda: admin.fetchval("select count(*) from step where state = 'done'"))
        await first.crash()
    seen.open.set()
    async with make_crew():
        row = await ended(admin, run_id)
    whole, replayed = seen.pieces
    assert len(whole) > 1
    assert replayed == ["".join(whole)] == [json.loads(row["output"])]
    assert len(sim.ledger) == row["llm_calls"] == 1
    assert await ledger_of(admin, run_id) == ["settle"]


@pytest.mark.parametrize("how", ["closed", "forgotten"])
async def test_a_stream_left_early_is_recorded_with_what_came(
    how: str, agents: Registry, make_crew, sim: RunningSim, admin: asyncpg.Connection
) -> None:
    """Closing a stream, or just returning, ends the call; its text so far is the answer, its cost an estimate."""

    @tollway.agent
    async def impatient(run: tollway.Run) -> str:
        stream = run.stream("hello", tier="drip")
        text = ""
        async for piece in stream:
            text += piece
            if len(text) > 20:
                break
        if how == "closed":
            await stream.aclose()
            assert stream.reply is not None
            assert stream.reply.text.startswith(text)
        return text

    async with make_crew() as one:
        run_id = await one.submit("impatient")
        row = await ended(admin, run_id)
        await until(lambda: len(sim.ledger) == 1)
    assert row["state"] == "succeeded", row["error_message"]
    step = await admin.fetchrow("select state, result, cost_nano from step")
    assert step["state"] == "done"
    assert json.loads(step["result"])["text"].startswith(json.loads(row["output"]))
    entry = await admin.fetchrow("select kind, estimated, nano from ledger")
    assert tuple(entry) == ("settle", True, step["cost_nano"])
    assert next(iter(sim.ledger.rows())).status == 499


async def test_a_cut_stream_fails_the_step(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """A connection lost in the middle raises, and its unknown charge stands at the worst case."""
    came: list[str] = []

    @tollway.agent(max_attempts=1)
    async def unlucky(run: tollway.Run) -> str:
        async for piece in run.stream("hello", tier="cut"):
            came.append(piece)
        return "never"

    async with make_crew() as one:
        run_id = await one.submit("unlucky")
        row = await ended(admin, run_id)
    assert row["state"] == "dead"
    assert row["error_code"] in ("connection", "bad_response")
    assert came
    assert await steps_of(admin, run_id) == [("1", "stream", "failed")]
    entry = await admin.fetchrow("select l.kind, l.nano = s.reserved_nano from ledger l, step s")
    assert tuple(entry) == ("unknown", True)
