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


@pytest.mark.parametrize("how", ["handed back", "raises"])
async def test_half_a_stream_is_no_answer_in_a_run_that_comes_back(
    how: str, agents: Registry, make_crew, sim: RunningSim, admin: asyncpg.Connection
) -> None:
    """An attempt cut between two pieces leaves no answer: the next one streams the whole, and both are paid (P2)."""
    seen = Streams()

    @tollway.agent
    async def talker(run: tollway.Run) -> str:
        pieces: list[str] = []
        seen.pieces.append(pieces)
        stream = run.stream("hello", tier="halting")
        async for piece in stream:
            pieces.append(piece)
            if len(seen.pieces) == 1:
                if how == "raises":
                    raise tollway.Retry(0.0)
                seen.half.set()
                await seen.open.wait()
        assert stream.reply is not None
        return stream.reply.text

    async with make_crew() as first:
        run_id = await first.submit("talker")
        if how == "handed back":
            await seen.half.wait()
            await first.worker.stop(grace_s=0)
        else:
            await until_true(lambda: admin.fetchval("select state <> 'intent' from step"))
    async with make_crew():
        await admin.execute("update queue set gate = null where gate = 'time'")
        row = await ended(admin, run_id)
    half, whole = seen.pieces
    assert (row["state"], json.loads(row["output"])) == ("succeeded", "".join(whole))
    assert len(whole) > len(half)
    assert await ledger_of(admin, run_id) == ["unknown", "settle"]


async def test_closing_a_stream_that_failed_hides_nothing(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """A stream closed in a `finally`, or before it began, raises nothing of its own: the run ends for what broke it."""

    @tollway.agent(max_attempts=1)
    async def tidy(run: tollway.Run) -> None:
        await run.stream("never", tier="fast").aclose()
        stream = run.stream("hello", tier="cut")
        try:
            async for _ in stream:
                pass
        finally:
            await stream.aclose()

    async with make_crew() as one:
        row = await ended(admin, await one.submit("tidy"))
    assert (row["state"], row["error_code"]) in [("dead", "connection"), ("dead", "bad_response")]
