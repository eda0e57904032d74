"""The journal's writes: fenced, whole, once; and the ways out of a run that no worker writes itself."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest
from msgspec.structs import replace

from record_kit import (
    accept_all,
    claim,
    claim_one,
    clock,
    event_types,
    everything,
    fact,
    ids,
    new_claims,
    new_run,
    success,
    write_of,
)
from tollway.domain.errors import Fenced
from tollway.domain.llm import Usage
from tollway.record.claims import Claim
from tollway.record.database import Database
from tollway.record.journal import JournalRecord
from tollway.record.reads import list_steps
from tollway.record.upkeep import Upkeep
from tollway.record.writes import Ending, Entry, Intent, Leaving, Reservation, RunWrite, StepOutcome
from tollway.runtime.fingerprints import fingerprint

USED = Usage(input_tokens=11, output_tokens=5, cached_tokens=3)


def intent_write(held: Claim, call_id: UUID, n: int = 1) -> RunWrite:
    """The intent of one llm step."""
    write = write_of(held, told := fact("step.intent", '{"n":1}'))
    write.intents.append(Intent(n, str(n), "llm", "answer", held.attempt, call_id, Reservation(900, "fast"), told.at))
    write.new_steps = 1
    return write


def outcome_write(held: Claim, call_id: UUID, seq: int, n: int = 1) -> RunWrite:
    """Its outcome, with the money."""
    write = replace(write_of(held, told := fact("step.done", '{"n":1}')), seq=seq)
    write.outcomes.append(StepOutcome(n, "done", told.at, b'"yes"', None, "fast", 1, USED, 640))
    write.entries.append(
        Entry(
            call_id,
            "settle",
            n,
            "answer",
            Reservation(900, "fast", model="gpt", price_version="v1"),
            640,
            USED,
            told.at,
        )
    )
    return write


def ending_of(held: Claim, state: str, **given: object) -> Ending:
    """An end of a claim in any state."""
    told = fact(state)
    whole = {"output": None, "error_code": None, "error_message": None, "ended_at": told.at, **given}
    return Ending(write_of(held, told), state, **whole)  # type: ignore[arg-type]


async def refused(verdicts: Awaitable[list[bool | Exception]]) -> bool:
    """Whether all of a batch was fenced off."""
    return all(isinstance(verdict, Fenced) for verdict in await verdicts)


async def test_a_run_is_journaled_from_intent_to_end(database: Database, admin: asyncpg.Connection) -> None:
    """Intent, outcome, money, events and the end stand as written, and the run's row sums them up (P10)."""
    held, worker = await claim_one(database, webhook_url="https://example.test/hook", webhook_secret_env="SECRET")
    record, call_id = JournalRecord(database, worker), ids.new()
    assert await record.write([intent_write(held, call_id)]) == [True]
    step = await admin.fetchrow("select * from step")
    assert (step["state"], step["reserved_nano"], step["call_id"], step["fence"]) == (
        "intent",
        900,
        call_id,
        held.fence,
    )
    assert await record.write([outcome_write(held, call_id, held.next_seq + 1)]) == [True]
    step = await admin.fetchrow("select * from step")
    assert (step["state"], step["result"], step["calls"], step["cost_nano"]) == ("done", b'"yes"', 1, 640)
    assert [row["n"] for row in (await record.steps([held.run_id]))[held.run_id]] == [1]
    ending = replace(success(held), degraded=("cached_only", "throttle"))
    ending.write.seq += 2
    assert await record.complete([ending]) == [True]
    run = await admin.fetchrow("select * from run")
    assert (run["state"], run["output"], run["attempt"], run["fence"]) == ("succeeded", b'"done"', 1, held.fence)
    assert (run["steps"], run["llm_calls"], run["input_tokens"], run["output_tokens"]) == (1, 1, 11, 5)
    assert (run["cached_tokens"], run["cost_nano"], run["degraded"]) == (3, 640, ["cached_only", "throttle"])
    assert run["started_at"] is not None
    assert await admin.fetchval("select count(*) from queue") == 0
    entry = await admin.fetchrow("select * from ledger")
    assert (entry["kind"], entry["run_id"], entry["nano"], entry["tenant"]) == ("settle", held.run_id, 640, "default")
    hook = await admin.fetchrow("select * from webhook_delivery")
    assert (hook["run_id"], hook["url"], hook["secret_env"]) == (held.run_id, "https://example.test/hook", "SECRET")
    expected = ["accepted", "claimed", "step.intent", "step.done", "succeeded"]
    assert await event_types(admin, held.run_id) == expected


async def test_an_end_takes_the_last_of_the_journal_along(database: Database, admin: asyncpg.Connection) -> None:
    """Outcome, settlement, events and the end arrive in one statement, or not at all."""
    held, worker = await claim_one(database)
    record, call_id = JournalRecord(database, worker), ids.new()
    await record.write([intent_write(held, call_id)])
    last = outcome_write(held, call_id, held.next_seq + 1)
    last.facts.append(fact("succeeded"))
    before = await everything(admin)
    bad = Ending(last, "succeeded", b'"x"', "code_of_a_success", None, last.facts[0].at)
    with pytest.raises(asyncpg.CheckViolationError):
        await record.complete([bad])
    assert await everything(admin) == before
    assert await record.complete([replace(bad, error_code=None)]) == [True]
    run = await admin.fetchrow("select * from run")
    assert (run["llm_calls"], run["cost_nano"], run["steps"], run["input_tokens"]) == (1, 640, 1, 11)
    assert await admin.fetchval("select state from step") == "done"
    assert await admin.fetchval("select nano from ledger") == 640
    assert (await event_types(admin, held.run_id))[-2:] == ["step.done", "succeeded"]


async def test_a_hit_is_journaled_with_what_it_saved(database: Database, admin: asyncpg.Connection) -> None:
    """An outcome says that it was cached and what that saved, written by itself or with the end, and reads so (P10)."""
    for with_end in (False, True):
        held, worker = await claim_one(database)
        record, call_id = JournalRecord(database, worker), ids.new()
        assert await record.write([intent_write(held, call_id)]) == [True]
        write = replace(write_of(held, told := fact("step.done", '{"n":1}')), seq=held.next_seq + 1)
        hit = StepOutcome(1, "done", told.at, b'"yes"', None, "fast", 0, Usage(), 0, cached=True, saved_nano=640)
        write.outcomes.append(hit)
        if with_end:
            write.facts.append(fact("succeeded"))
            assert await record.complete([Ending(write, "succeeded", b'"x"', None, None, told.at)]) == [True]
        else:
            assert await record.write([write]) == [True]
        (step,) = (await record.steps([held.run_id]))[held.run_id]
        assert (step["cached"], step["cost_nano"], step["calls"]) == (True, 0, 0)
        (shown,) = await list_steps(database, held.run_id, 0, 10)
        assert (shown["cached"], shown["saved_nano"], shown["saved_usd"]) == (True, 640, 640 / 1e9)
    assert await admin.fetchval("select count(*) from ledger") == 0


StaleMaker = Callable[[Claim, int], tuple[Claim, int]]


@pytest.mark.parametrize(
    "stale",
    [
        lambda held, worker: (replace(held, fence=held.fence - (1 << 16)), worker),
        lambda held, worker: (replace(held, fence=held.fence + 1), worker),
        lambda held, worker: (held, worker + 1000),
        lambda held, worker: (replace(held, next_seq=held.next_seq - 2), worker),
        lambda held, worker: (replace(held, next_seq=held.next_seq + 5), worker),
    ],
    ids=["older fence", "other claim's number", "other worker", "older history", "newer history"],
)
async def test_a_stale_worker_writes_nothing(database: Database, admin: asyncpg.Connection, stale: StaleMaker) -> None:
    """Every verb under a wrong fence, worker or history leaves no trace in any table (P3)."""
    held, worker = await claim_one(database, webhook_url="https://example.test/")
    call_id = ids.new()
    assert await JournalRecord(database, worker).write([intent_write(held, call_id)]) == [True]
    good = replace(held, next_seq=held.next_seq + 1)
    old, other = stale(good, worker)
    record = JournalRecord(database, other)
    before = await everything(admin)
    assert await refused(record.write([intent_write(old, ids.new(), n=2)]))
    assert await refused(record.write([outcome_write(old, call_id, old.next_seq)]))
    assert await refused(record.complete([success(old)]))
    dead = ending_of(old, "dead", error_code="agent_error", error_message="x", fingerprint="f")
    assert await refused(record.complete([dead]))
    for delay_s in (None, 0.0):
        assert await refused(
            record.requeue([Leaving(old.run_id, old.fence, old.next_seq, delay_s, 1, "retried", None)])
        )
    assert await everything(admin) == before


async def test_after_a_reap_the_old_worker_writes_nothing(database: Database, admin: asyncpg.Connection) -> None:
    """A worker thought dead that goes on finds its fence raised, before and after the next claim (P3)."""
    held, worker = await claim_one(database)
    record = JournalRecord(database, worker)
    await Upkeep(database, 9).reap(worker)
    before = await everything(admin)
    for seq in range(1, 6):
        assert await refused(record.complete([success(replace(held, next_seq=seq))]))
    assert await everything(admin) == before
    claims, second = await new_claims(database)
    (again,) = (await claim(claims)).claims
    before = await everything(admin)
    for seq in range(1, 6):
        assert await refused(record.complete([success(replace(held, next_seq=seq))]))
        assert await refused(record.write([intent_write(replace(held, next_seq=seq), ids.new())]))
    assert await everything(admin) == before
    assert await JournalRecord(database, second).complete([success(again)]) == [True]


async def test_one_fenced_run_does_not_hold_up_its_batch(database: Database, admin: asyncpg.Connection) -> None:
    """In one batch the held runs are written whole and the lost ones left out whole."""
    await accept_all(database, [new_run() for _ in range(4)])
    claims, worker = await new_claims(database)
    held = (await claim(claims)).claims
    record = JournalRecord(database, worker)
    held[1] = replace(held[1], fence=held[1].fence + 1)
    verdicts = await record.write([intent_write(one, ids.new()) for one in held])
    assert [verdict is True for verdict in verdicts] == [True, False, True, True]
    assert await admin.fetchval("select count(*) from step") == 3
    verdicts = await record.complete([success(replace(one, next_seq=one.next_seq + 1)) for one in held])
    assert [verdict is True for verdict in verdicts] == [True, False, True, True]
    assert await admin.fetchval("select count(*) from run where state = 'succeeded'") == 3


async def test_a_write_whose_answer_was_lost_is_known_again(database: Database, admin: asyncpg.Connection) -> None:
    """Sent twice, a write says True twice and counts once; so does an end, and money."""
    held, worker = await claim_one(database, webhook_url="https://example.test/")
    record, call_id = JournalRecord(database, worker), ids.new()
    last = outcome_write(held, call_id, held.next_seq + 1)
    end = success(held)
    end.write.seq += 2
    for verb, what in ((record.write, intent_write(held, call_id)), (record.write, last), (record.complete, end)):
        assert await verb([what]) == [True]  # type: ignore[operator]
        stands = await everything(admin)
        assert await verb([what]) == [True]  # type: ignore[operator]
        assert await everything(admin) == stands
    assert await admin.fetchval("select llm_calls from run") == 1


@pytest.mark.parametrize("state", ["failed", "cancelled", "expired", "dead"])
async def test_every_end_is_written(database: Database, admin: asyncpg.Connection, state: str) -> None:
    """Each final state is taken with its error; only the dead become dead letters."""
    held, worker = await claim_one(database)
    code = None if state == "cancelled" else "agent_error"
    ending = ending_of(
        held, state, error_code=code, error_message="boom", fingerprint="f1" if state == "dead" else None
    )
    assert await JournalRecord(database, worker).complete([ending]) == [True]
    run = await admin.fetchrow("select state, error_code, error_message, output from run")
    assert tuple(run) == (state, code, "boom", None)
    letters = await admin.fetch(
        "select run_id, tenant, agent, lane, fingerprint, code, message, cost_nano from dead_letter"
    )
    expected = [(held.run_id, "default", "triage", "standard", "f1", code, "boom", 0)] if state == "dead" else []
    assert [tuple(row) for row in letters] == expected


async def test_a_retry_waits_for_its_time_and_counts_its_error(database: Database, admin: asyncpg.Connection) -> None:
    """A requeue with a delay stands behind the gate of time; opened, it is claimed with the next attempt."""
    held, worker = await claim_one(database, ttl_s=500.0)
    record = JournalRecord(database, worker)
    leaving = Leaving(held.run_id, held.fence, held.next_seq, 0.05, 1, "retried", '{"reason":"error"}')
    assert await record.requeue([leaving]) == [True]
    assert await refused(record.requeue([leaving]))
    row = await admin.fetchrow("select state, worker, gate, errors, expires_at from queue")
    assert tuple(row) == (0, None, "time", 1, None)
    claims, _ = await new_claims(database)
    assert (await claim(claims)).claims == []
    async with asyncio.timeout(10):
        while not await Upkeep(database, 9).open_gates():
            await asyncio.sleep(0.005)
    (again,) = (await claim(claims)).claims
    assert (again.attempt, again.errors, again.lost, again.fence > held.fence) == (2, 1, 0, True)
    assert again.started_at == held.started_at
    assert await event_types(admin, held.run_id) == ["accepted", "claimed", "retried", "claimed"]


async def test_a_hand_back_costs_no_attempt(database: Database, admin: asyncpg.Connection) -> None:
    """A run handed back at once goes to its old place, also in a line that was marked idle meanwhile."""
    held, worker = await claim_one(database)
    claims, _ = await new_claims(database)
    await claims.mark_idle("standard", [("triage", "default")])
    place = await admin.fetchval("select place from queue")
    record = JournalRecord(database, worker)
    leaving = Leaving(held.run_id, held.fence, held.next_seq, None, 0, "handed_back", None)
    assert await record.requeue([leaving]) == [True]
    (again,) = (await claim(claims)).claims
    assert (again.attempt, await admin.fetchval("select place from queue")) == (1, place)


async def test_the_second_loss_sets_a_run_apart_and_the_third_ends_it(
    database: Database, admin: asyncpg.Connection
) -> None:
    """Lost once: open again; twice: alone; then as a lone run: dead, with its event, dead letter and webhook."""
    await accept_all(database, [run := new_run(webhook_url="https://example.test/", ttl_s=900.0)])
    upkeep = Upkeep(database, 77)
    states = []
    for loss in range(3):
        claims, worker = await new_claims(database)
        held = await claims.claim_alone(run.id) if loss == 2 else (await claim(claims)).claims[0]
        assert held is not None
        assert (await upkeep.bury_poison()).ids == []
        assert await upkeep.reap(worker) == [(run.id, "standard", loss + 1)]
        assert await upkeep.reap(worker) == []
        states.append(await admin.fetchval("select gate from queue"))
    assert states == [None, "alone", "alone"]
    assert await admin.fetchval("select expires_at from queue") is None
    assert (await upkeep.bury_poison()).ids == [run.id]
    assert (await upkeep.bury_poison()).ids == []
    row = await admin.fetchrow("select state, error_code, attempt from run")
    assert tuple(row) == ("dead", "poison", 3)
    letter = await admin.fetchrow("select * from dead_letter")
    assert (letter["run_id"], letter["agent"], letter["code"]) == (run.id, "triage", "poison")
    assert letter["fingerprint"] == fingerprint("triage", "poison", "")
    assert await admin.fetchval("select count(*) from webhook_delivery") == 1
    assert (await event_types(admin, run.id))[-3:] == ["claimed", "retried", "dead"]
    assert await admin.fetchval("select count(*) from queue") == 0
    assert letter["fingerprint"] in await admin.fetchval("select data from event where type = 'dead'")


async def test_what_nobody_holds_expires_in_time(database: Database, admin: asyncpg.Connection) -> None:
    """Past its deadline or time to live a run that no worker holds is expired; a held one is its worker's business."""
    now = clock.now()
    late = [new_run(deadline_at=now - 1), new_run(created_at=now - 10, ttl_s=5.0), new_run(delay_s=60.0, ttl_s=0.0)]
    held, worker = await claim_one(database, created_at=now - 10, ttl_s=5.0)
    await accept_all(database, [*late, fine := new_run(deadline_at=now + 60)])
    upkeep = Upkeep(database, 9)
    due = await upkeep.due()
    assert due.expires_at == pytest.approx(now - 5, abs=0.01)
    assert set((await upkeep.expire()).ids) == {run.id for run in late}
    assert (await upkeep.expire()).ids == []
    rows = await admin.fetch("select id, error_code from run where state = 'expired'")
    assert {row["id"] for row in rows} == {run.id for run in late}
    assert {row["error_code"] for row in rows} == {"expired"}
    assert {row[0] for row in await admin.fetch("select run_id from queue")} == {held.run_id, fine.id}
    await JournalRecord(database, worker).requeue(
        [Leaving(held.run_id, held.fence, held.next_seq, None, 0, "handed_back", None)]
    )
    assert (await upkeep.expire()).ids == [], "a time to live ends with the first start"


async def test_elections_have_one_winner_and_can_be_left(database: Database) -> None:
    """One keeper holds the term, renews it, and hands it over at once when it resigns."""
    one, two = Upkeep(database, 1), Upkeep(database, 2)
    assert await one.elected(30) is True
    assert (await two.elected(30), await one.elected(30)) == (False, True)
    await one.resign()
    assert await two.elected(0.0) is True
    assert await one.elected(30) is True
