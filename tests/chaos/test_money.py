"""Money under fire: workers and the API die by kill -9 at random while runs and calls over the wire are paid for."""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator

import pytest
from books import Booked, Charged, money_faults
from stack import ADMIN_KEY, Stack, Start
from wire import Cut, ask

RUNS_PER_S, CALLS_PER_S = 60, 40
KILL_EVERY_S = 2.0
SECONDS = float(os.environ.get("TOLLWAY_CHAOS_SECONDS", "15"))
LEASE_TTL_S = 4
AGENTS = ("one_call", "three_calls", "branches")

_LEDGER = "select call_id::text, kind, nano from ledger where call_id >= $1"
_RESERVED = """select (select count(*) from wire_call where call_id >= $1)
    + (select count(*) from step s where s.run_id >= $1 and s.state = 'intent'
        and not exists (select from queue q where q.run_id = s.run_id))
    + (select count(*) from queue where run_id >= $1)"""

_BUDGETS = [
    {"period": "total", "hard_usd": 1000},
    {"period": "day", "hard_usd": 1000, "agent": "three_calls"},
    {"period": "month", "hard_usd": 1000, "lane": "interactive", "timezone": "Europe/Berlin"},
]
_LEASED = """select (select count(*) from budget_slice) + (select count(*) from budget_delta)
    + (select count(*) from budget_opening) + (select count(*) from budget_account where granted_nano <> 0)"""
_ACCOUNTS = """select b.id, a.spent_nano, (
        select coalesce(sum(l.nano), 0)::bigint from ledger l
        where l.tenant = b.tenant and l.call_id >= uuid7_floor(greatest(a.begins, 'epoch'))
            and (b.agent is null or l.agent = b.agent) and (b.lane is null or l.lane = b.lane)
    ) as ledger_nano
    from budget b join budget_account a on a.budget = b.id"""


@pytest.mark.slow
@pytest.mark.timeout(240 + 4 * SECONDS)
async def test_kill_9_at_random_loses_and_makes_no_money(up: Start) -> None:
    """P4, P10: our ledger is the provider's and the listed unknowns, to the nano-dollar; nothing stays reserved.

    Each budget's account has spent what the ledger says of its scope, and nothing of it is leased any more.
    """
    async with up(workers=2, latency_s=0.2, heartbeat_s=1, lease_ttl_s=LEASE_TTL_S) as stack:
        await ask(stack.sim_port, "POST", "/sim/config", {"fault_rates": {"status_500": 0.02, "cut": 0.02}})
        assert (await stack.ask("PUT", "/v1/tenants/default/budgets", {"budgets": _BUDGETS})).status == 200
        kills: Counter[str] = Counter()
        killing = asyncio.create_task(_kill(stack, kills))
        calling = asyncio.create_task(_call_on(stack))
        accepted = await stack.load(AGENTS, RUNS_PER_S, SECONDS, tag="money")
        answered = await calling
        await stack.until("both were killed", lambda: len(kills) == 2, 60)
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
        await stack.until_ready()
        await stack.until_rest()
        await stack.until("nothing is reserved", lambda: _nothing_reserved(stack), 5 * LEASE_TTL_S + 15)
        theirs = [Charged(row["call_id"], row["cost_nano"]) for row in await stack.calls()]
        async with stack.record() as record:
            ours = [Booked(*row) for row in await record.fetch(_LEDGER, stack.began)]
            accounts = await record.fetch(_ACCOUNTS)
        assert (await stack.ask("PUT", "/v1/tenants/default/budgets", {"budgets": []})).status == 200
    kinds = Counter(entry.kind for entry in ours)
    print(f"{len(accepted)} runs, {answered} calls answered, kills {dict(kills)}, entries {dict(kinds)}")
    assert answered
    faults = money_faults(ours, theirs)
    assert not faults, "\n".join(faults[:20])
    assert len({row["id"] for row in accounts}) == len(_BUDGETS)
    assert [row["spent_nano"] for row in accounts] == [row["ledger_nano"] for row in accounts]
    assert all(row["spent_nano"] for row in accounts)


async def _nothing_reserved(stack: Stack) -> bool:
    async with stack.record() as record:
        under_way = (await ask(stack.sim_port, "GET", "/sim/ledger?totals=1")).body["totals"]["in_flight"]
        reserved = await record.fetchval(_RESERVED, stack.began) + await record.fetchval(_LEASED)
        return bool(reserved == 0 and under_way == 0)


async def _kill(stack: Stack, kills: Counter[str]) -> None:
    """Until cancelled, a worker or the API at random; each time once all that died before has worked for a while."""
    for command in _victims():
        await asyncio.sleep(KILL_EVERY_S / 2)  # by then the dead are missed
        await stack.until_ready()
        await asyncio.sleep(KILL_EVERY_S / 2)  # or a start that is slow leaves no time in which a submit is accepted
        stack.signal(random.choice(stack.pids(command)), signal.SIGKILL)
        kills[command] += 1


def _victims() -> Iterator[str]:
    yield from random.sample(("worker", "api"), 2)
    while True:
        yield random.choice(("worker", "api"))


async def _call_on(stack: Stack) -> int:
    """Calls over the wire at a steady rate, every other one as a stream; how many were answered."""
    tasks = []
    for number in range(int(CALLS_PER_S * SECONDS)):
        tasks.append(asyncio.create_task(_call(stack, number)))
        await asyncio.sleep(1 / CALLS_PER_S)
    return sum(await asyncio.gather(*tasks))


async def _call(stack: Stack, number: int) -> bool:
    """One call; it may be cut, or fail with the provider."""
    body = {"model": "fast", "messages": [{"role": "user", "content": f"call {number}"}], "max_tokens": 8}
    key = {"authorization": f"Bearer {ADMIN_KEY}"}
    with contextlib.suppress(Cut):
        answer = await ask(stack.port, "POST", "/v1/chat/completions", {**body, "stream": bool(number % 2)}, key)
        return answer.status == 200
    return False
