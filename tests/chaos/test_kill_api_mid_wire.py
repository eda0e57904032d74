"""The API dies by kill -9 while it serves calls over the wire."""

import asyncio
import contextlib
import signal
from collections import defaultdict

import pytest
from stack import ADMIN_KEY, Stack, Start
from wire import Cut, ask

WHOLE, CUT = 20, 24
LATENCY_S = 1.5

_RESERVED = "select call_id from wire_call where call_id >= $1"
_LEDGER = "select call_id, kind, nano from ledger where run_id is null and call_id >= $1"


@pytest.mark.slow
async def test_kill_9_of_the_api_accounts_for_every_call_over_the_wire(up: Start) -> None:
    """P1, P10: calls in flight become `unknown` entries of at least their cost; every call charged is in the ledger."""
    async with up(workers=1) as stack:
        await asyncio.gather(*(_call(stack, number) for number in range(WHOLE)))
        await ask(stack.sim_port, "POST", "/sim/config", {"latency_s": LATENCY_S})
        calling = [asyncio.create_task(_call(stack, number)) for number in range(CUT)]

        async def under_way() -> bool:
            found = (await ask(stack.sim_port, "GET", "/sim/ledger?totals=1")).body["totals"]
            return bool(found["in_flight"] == CUT)

        await stack.until("the calls are at the provider", under_way)
        async with stack.record() as record:
            stack.signal(stack.pids("api")[0], signal.SIGKILL)
            reserved = {row["call_id"] for row in await record.fetch(_RESERVED, stack.began)}
            assert len(reserved) >= CUT
            await asyncio.gather(*calling)

            async def accounted() -> bool:
                ours = await record.fetchval("select count(*) from wire_call where call_id >= $1", stack.began)
                charged = (await ask(stack.sim_port, "GET", "/sim/ledger?totals=1")).body["totals"]
                return bool(ours == 0 and charged["in_flight"] == 0)

            await stack.until("every reservation has come to an entry", accounted, 30)
            entries = defaultdict(list)
            for row in await record.fetch(_LEDGER, stack.began):
                entries[str(row["call_id"])].append((row["kind"], row["nano"]))
        charged = {call["call_id"]: call["cost_nano"] for call in await stack.calls()}
    assert len(charged) == WHOLE + CUT
    assert charged.keys() == entries.keys()
    assert all(len(each) == 1 for each in entries.values()), entries
    unknown = {call_id for call_id, each in entries.items() if each[0][0] == "unknown"}
    assert unknown == {str(call_id) for call_id in reserved}
    assert all(entries[call_id] == [("settle", cost)] for call_id, cost in charged.items() if call_id not in unknown)
    assert all(entries[call_id][0][1] >= charged[call_id] for call_id in unknown)


async def _call(stack: Stack, number: int) -> None:
    """A call over the wire, every other one as a stream. It may be cut."""
    body = {"model": "fast", "messages": [{"role": "user", "content": f"call {number}"}], "max_tokens": 8}
    key = {"authorization": f"Bearer {ADMIN_KEY}"}
    with contextlib.suppress(Cut):
        await ask(stack.port, "POST", "/v1/chat/completions", {**body, "stream": bool(number % 2)}, key)
