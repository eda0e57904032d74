"""Concurrency keys on the record: who holds a key, who waits, who goes for whom, and that no key is ever stranded."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg

from record_kit import (
    accept_all,
    claim,
    clock,
    event_types,
    new_claims,
    new_run,
    success,
    until_blocked,
)
from tollway.domain.words import ActorKind, RunState
from tollway.record.accept import Accepted, Accepts, NewRun, run_columns
from tollway.record.cancel import Cancellation, cancel_runs, end_queued_runs
from tollway.record.claims import Claim
from tollway.record.database import Database
from tollway.record.journal import JournalRecord
from tollway.record.processes import register_process
from tollway.record.upkeep import Upkeep
from tollway.record.writes import Leaving


def keyed(policy: str | None = None, **given: Any) -> NewRun:
    """A run with the key `doc`."""
    return new_run(**{"concurrency_key": "doc", "concurrency_policy": policy, **given})


async def gates(admin: asyncpg.Connection, runs: Sequence[NewRun]) -> list[str | None]:
    """Each run's gate, or `gone`."""
    rows = await admin.fetch("select run_id, gate from queue where run_id = any($1)", [run.id for run in runs])
    found = {row["run_id"]: row["gate"] for row in rows}
    return [found.get(run.id, "gone") for run in runs]


async def holder(admin: asyncpg.Connection, key: str = "doc") -> UUID | None:
    """Who holds a key; None when nobody wants it."""
    row = await admin.fetchrow("select holder from concurrency where key = $1", key)
    return None if row is None else row["holder"]


async def ended(admin: asyncpg.Connection, run: NewRun) -> tuple[str | None, str | None, str | None]:
    """A run's final state with its error."""
    row = await admin.fetchrow("select state, error_code, error_message from run where id = $1", run.id)
    return row["state"], row["error_code"], row["error_message"]


class Hands:
    """One worker: claims what may run, and ends what it is told to."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.opened: list[str] = []
        self.held: dict[UUID, Claim] = {}

    async def start(self) -> "Hands":
        """Register the worker."""
        self.claims, self.worker = await new_claims(self.database)
        self.record = JournalRecord(self.database, self.worker, self.opened.extend)
        return self

    async def claim(self) -> list[UUID]:
        """Claim all there is; returns the runs."""
        claims = (await claim(self.claims)).claims
        self.held |= {one.run_id: one for one in claims}
        return [one.run_id for one in claims]

    async def finish(self, *runs: NewRun) -> None:
        """End these runs well, in one flush."""
        done = await self.record.complete([success(self.held.pop(run.id)) for run in runs])
        assert done == [True] * len(runs)

    async def give_back(self, run: NewRun, delay_s: float | None) -> None:
        """Give a run back to the queue after an error."""
        one = self.held.pop(run.id)
        back = Leaving(one.run_id, one.fence, one.next_seq, delay_s, 1, "retried", None)
        assert await self.record.requeue([back]) == [True]


async def keeper(database: Database) -> Upkeep:
    """A keeper's verbs."""
    return Upkeep(database, await register_process(database, "keeper", 12.0))


async def test_one_run_of_a_key_at_a_time_in_turn(database: Database, admin: asyncpg.Connection) -> None:
    """Of three runs of a key one may be claimed; each end lets the next in line go, and tells its lane."""
    runs = [keyed(), keyed(), keyed(priority_s=60.0)]
    accepts = Accepts(database)
    assert await accepts.accept(runs[0]) == Accepted(runs[0].id, replayed=False)
    for run in runs[1:]:
        assert await accepts.accept(run) == Accepted(run.id, replayed=False, waits=True)
    other = keyed(tenant="default", concurrency_key="other")
    await accept_all(database, [other])
    hands = await Hands(database).start()
    assert sorted(await hands.claim()) == sorted([runs[0].id, other.id])
    assert await hands.claim() == []
    await hands.finish(runs[0])
    assert hands.opened == ["standard"]
    assert await hands.claim() == [runs[2].id], "the head start counts among those that wait"
    await hands.finish(runs[2])
    assert await hands.claim() == [runs[1].id]
    await hands.finish(runs[1], other)
    assert await admin.fetchval("select count(*) from concurrency") == 0


async def test_of_several_in_one_flush_the_first_takes_the_key(database: Database, admin: asyncpg.Connection) -> None:
    """Runs of one key that are written together stand as if they had come one by one, whatever their places."""
    runs = [keyed(), keyed(priority_s=600.0), keyed("cancel_newest"), new_run(), keyed(concurrency_key="two")]
    accepts = Accepts(database)
    results = await asyncio.gather(*[accepts.accept(run) for run in runs])
    assert [(one.waits, one.ended) for one in results] == [
        (False, False), (True, False), (False, True), (False, False), (False, False)
    ]  # fmt: skip
    assert await gates(admin, runs) == [None, "key", "gone", None, None]


async def test_keys_are_of_a_tenant(database: Database, admin: asyncpg.Connection) -> None:
    """The same key of two tenants is two keys."""
    await admin.execute("insert into tenant (id) values ('acme')")
    runs = [keyed(), keyed(tenant="acme")]
    await accept_all(database, runs)
    assert await gates(admin, runs) == [None, None]


async def test_cancel_newest_ends_with_its_accept(database: Database, admin: asyncpg.Connection) -> None:
    """A run that gives way is accepted and cancelled in one transaction, with its reason, events and webhook; a repeat
    of its idempotency key finds it."""
    first = keyed()
    late = keyed("cancel_newest", idempotency_key="i", body_hash=b"b", webhook_url="https://example.test/")
    await accept_all(database, [first])
    accepts = Accepts(database)
    assert await accepts.accept(late) == Accepted(late.id, replayed=False, ended=True)
    why = f"its concurrency key is taken by run {first.id}"
    assert await ended(admin, late) == ("cancelled", "concurrency_key", why)
    assert await gates(admin, [late]) == ["gone"]
    assert await event_types(admin, late.id) == ["accepted", "cancelled"]
    assert await admin.fetchval("select count(*) from webhook_delivery where run_id = $1", late.id) == 1
    again = keyed("cancel_newest", idempotency_key="i", body_hash=b"b")
    assert await accepts.accept(again) == Accepted(late.id, replayed=True)
    hands = await Hands(database).start()
    assert await hands.claim() == [first.id]
    await hands.finish(first)
    free = keyed("cancel_newest")
    assert await accepts.accept(free) == Accepted(free.id, replayed=False)
    assert await hands.claim() == [free.id]


async def test_cancel_running_ends_a_queued_holder_and_takes_its_place(
    database: Database, admin: asyncpg.Connection
) -> None:
    """A holder that no worker has goes at once, told for whom; those who only wait their turn still wait, behind."""
    old, patient, new = keyed(), keyed(), keyed("cancel_running")
    heard: list[Cancellation] = []
    accepts = Accepts(database, on_cancelled=heard.append)
    for run in (old, patient, new):
        result = await accepts.accept(run)
    assert result == Accepted(new.id, replayed=False)
    assert await ended(admin, old) == (
        "cancelled", "concurrency_key", f"run {new.id} of the same concurrency key took its place"
    )  # fmt: skip
    assert await gates(admin, [old, patient, new]) == ["gone", "key", None]
    assert heard == [Cancellation(frozenset({old.id}), frozenset(), lanes=frozenset({"standard"}))]


async def test_cancel_running_asks_a_running_holder_and_the_newest_wins(
    database: Database, admin: asyncpg.Connection
) -> None:
    """A running holder is asked to stop and keeps the key until it has; of those that press, only the newest stays."""
    old, first, patient, second = keyed(), keyed("cancel_running"), keyed(), keyed("cancel_running")
    await accept_all(database, [old])
    hands = await Hands(database).start()
    assert await hands.claim() == [old.id]
    accepts = Accepts(database)
    for run in (first, patient, second):
        assert (await accepts.accept(run)).waits
    asked = await admin.fetchval("select cancelled_by from queue where run_id = $1", old.id)
    assert asked == f"key:key-1 for {first.id}"
    assert (await ended(admin, first))[:2] == ("cancelled", "concurrency_key")
    assert await event_types(admin, first.id) == ["accepted", "cancelled"]
    assert await hands.claim() == [], "nobody runs while the old one does"
    await hands.finish(old)
    assert await hands.claim() == [second.id], "before the one who came earlier, but only waits its turn"
    third = keyed("cancel_running")
    assert (await accepts.accept(third)).waits
    await hands.finish(second)
    assert await hands.claim() == [third.id]
    await hands.finish(third)
    assert await hands.claim() == [patient.id]


async def test_a_key_is_kept_until_the_end(database: Database, admin: asyncpg.Connection) -> None:
    """A run that retries, was handed back, lost its worker or waits for a process of its own keeps its key."""
    run, waiting = keyed(), keyed()
    await accept_all(database, [run, waiting])
    hands = await Hands(database).start()
    upkeep = await keeper(database)
    assert await hands.claim() == [run.id]
    await hands.give_back(run, 0.0)
    assert await hands.claim() == []
    assert await upkeep.open_gates() == ["standard"]
    assert await hands.claim() == [run.id]
    await hands.give_back(run, None)
    for loss in range(2):
        assert await hands.claim() == [run.id]
        await upkeep.reap(hands.worker)
        hands = await Hands(database).start()
        assert await gates(admin, [run, waiting]) == [None if loss == 0 else "alone", "key"]
    assert await holder(admin) == run.id
    held = await hands.claims.claim_alone(run.id)
    assert held is not None
    await upkeep.reap(hands.worker)
    buried = await upkeep.bury_poison()
    assert (buried.ids, buried.lanes) == ([run.id], frozenset({"standard"}))
    assert await gates(admin, [waiting]) == [None]
    assert await holder(admin) == waiting.id


async def test_a_delayed_run_takes_its_key_when_it_is_due(database: Database, admin: asyncpg.Connection) -> None:
    """Before it is due it holds no key; then it takes a free one, or waits behind the holder in its turn."""
    upkeep = await keeper(database)
    soon, now = keyed(delay_s=0.001), keyed()
    await accept_all(database, [soon, now])
    assert await gates(admin, [soon, now]) == ["time", None]
    lone = keyed(delay_s=0.001, concurrency_key="lone")
    await accept_all(database, [lone])
    await until_due(upkeep, admin, soon, lone)
    assert await gates(admin, [soon, now, lone]) == ["key", None, None]
    hands = await Hands(database).start()
    assert sorted(await hands.claim()) == sorted([now.id, lone.id])
    await hands.finish(now)
    assert await hands.claim() == [soon.id]


async def until_due(upkeep: Upkeep, admin: asyncpg.Connection, *runs: NewRun) -> None:
    """Open gates of time until none of these runs waits behind one."""
    async with asyncio.timeout(20):
        while "time" in await gates(admin, runs):
            await upkeep.open_gates()


async def test_policies_of_delayed_runs_act_when_they_are_due(database: Database, admin: asyncpg.Connection) -> None:
    """A delayed run gives way or takes over by what it finds when it is due, not when it was accepted."""
    upkeep = await keeper(database)
    shy, bold, old = keyed("cancel_newest", delay_s=0.001), keyed("cancel_running", delay_s=0.002), keyed()
    await accept_all(database, [shy, bold, old])
    assert await gates(admin, [shy, bold, old]) == ["time", "time", None]
    await until_due(upkeep, admin, shy, bold)
    done = await upkeep.settle_due_keys()
    assert done.ended == {shy.id, old.id}
    assert await gates(admin, [shy, bold, old]) == ["gone", None, "gone"]
    assert await upkeep.settle_due_keys() == Cancellation(frozenset(), frozenset())


async def test_a_waiting_run_may_be_cancelled_or_expire(database: Database, admin: asyncpg.Connection) -> None:
    """A run behind its key ends like any queued run, by a cancel or its time to live, and the key stays where it is;
    when the holder expires, the key passes on."""
    upkeep = await keeper(database)
    lapsed = clock.now() - 10
    first, dropped, last = keyed(created_at=lapsed, ttl_s=1.0), keyed(), keyed()
    short = keyed(created_at=lapsed, ttl_s=1.0)
    delayed = keyed(created_at=lapsed, ttl_s=1.0, delay_s=3600.0)
    await accept_all(database, [first, dropped, short, last, delayed])
    assert (await cancel_runs(database, [dropped.id], "k")).ended == {dropped.id}
    assert await holder(admin) == first.id
    gone = await upkeep.expire()
    assert (set(gone.ids), gone.lanes) == ({first.id, short.id, delayed.id}, frozenset({"standard"}))
    assert await holder(admin) == last.id
    assert await gates(admin, [last]) == [None]


async def test_a_started_run_has_no_time_to_live(database: Database, admin: asyncpg.Connection) -> None:
    """`ttl_s` ends with the first start, though the run retries, is gated or loses its worker later."""
    upkeep = await keeper(database)
    run = keyed(created_at=clock.now(), ttl_s=900.0)
    await accept_all(database, [run])
    hands = await Hands(database).start()
    await hands.claim()
    await hands.give_back(run, 3600.0)
    assert await admin.fetchval("select expires_at from queue where run_id = $1", run.id) is None
    await admin.execute("update queue set gate = null where run_id = $1", run.id)
    assert await hands.claim() == [run.id]
    await upkeep.reap(hands.worker)
    assert await admin.fetchval("select expires_at from queue where run_id = $1", run.id) is None


async def test_an_accept_and_the_end_of_the_holder_take_turns(database: Database, admin: asyncpg.Connection) -> None:
    """P1: an accept that comes while the holder ends is not stranded: it waits for the key's row, and finds it free."""
    first, late = keyed(), keyed()
    await accept_all(database, [first])
    hands = await Hands(database).start()
    await hands.claim()
    async with database.connection() as connection:
        held = connection.transaction()
        await held.start()
        await connection.execute("select holder from concurrency where key = 'doc' for update")
        finishing = asyncio.create_task(hands.finish(first))
        await until_blocked(admin)
        accepting = asyncio.create_task(accept_all(database, [late]))
        async with asyncio.timeout(20):
            while await admin.fetchval("select count(*) from pg_locks where not granted") < 2:
                await asyncio.sleep(0.01)
        await held.rollback()
    await asyncio.gather(finishing, accepting)
    assert await hands.claim() == [late.id]


async def test_an_end_of_a_waiting_run_that_is_undone_strands_nobody(
    database: Database, admin: asyncpg.Connection
) -> None:
    """While the only heir is being ended its key has no holder; if that end is undone, the keeper passes the key on."""
    first, heir = keyed(), keyed()
    await accept_all(database, [first, heir])
    hands = await Hands(database).start()
    await hands.claim()
    async with database.connection() as connection:
        undone = connection.transaction()
        await undone.start()
        await connection.fetch("select from queue where run_id = $1 for update", heir.id)
        await hands.finish(first)
        assert await holder(admin) is None
        assert await admin.fetchval("select count(*) from concurrency") == 1
        await undone.rollback()
    assert await hands.claim() == []
    done = await (await keeper(database)).mend_keys()
    assert done.lanes == {"standard"}
    assert await hands.claim() == [heir.id]


async def test_the_keeper_mends_what_others_left(database: Database, admin: asyncpg.Connection) -> None:
    """Keys whose holder vanished pass on or go; a takeover whose asker died after the accept is carried out."""
    await accept_all(database, [first := keyed(), heir := keyed(), lone := keyed(concurrency_key="lone")])
    await admin.execute("delete from queue where run_id = any($1)", [first.id, lone.id])
    upkeep = await keeper(database)
    assert (await upkeep.mend_keys()).lanes == {"standard"}
    assert await gates(admin, [heir]) == [None]
    assert [row[0] for row in await admin.fetch("select key from concurrency")] == ["doc"]
    new = keyed("cancel_running")
    await database.rows("accept_keyed_runs", *run_columns([new]))  # and died before it settled
    assert await gates(admin, [new]) == ["key"]
    done = await upkeep.mend_keys()
    assert (done.ended, done.lanes) == ({heir.id}, {"standard"})
    assert await gates(admin, [new]) == [None]
    assert await upkeep.mend_keys() == Cancellation(frozenset(), frozenset())


async def test_a_repeated_write_finds_how_its_runs_stand(database: Database) -> None:
    """P1: a flush sent again after its answer was lost writes nothing twice and tells the same."""
    runs = [keyed(), keyed(), keyed("cancel_newest"), keyed("cancel_running"), new_run()]
    first, again = Accepts(database), Accepts(database)
    one = await asyncio.gather(*[first.accept(run) for run in runs])
    two = await asyncio.gather(*[again.accept(run) for run in runs])
    assert [(r.waits, r.ended) for r in one] == [
        (False, True),
        (True, False),
        (False, True),
        (False, False),
        (False, False),
    ]
    assert one == two


async def test_many_may_end_and_pass_keys_in_one_statement(database: Database, admin: asyncpg.Connection) -> None:
    """A bulk cancel of holders and of some that wait passes keys to who is left; ending all leaves no key behind."""
    runs = [keyed(concurrency_key=f"k{n % 3}") for n in range(12)]
    await accept_all(database, runs)
    actor = (ActorKind.KEY, "k")
    await end_queued_runs(database, [run.id for run in runs[:6]], RunState.CANCELLED, actor)
    assert await gates(admin, runs) == ["gone"] * 6 + [None] * 3 + ["key"] * 3
    await end_queued_runs(database, [run.id for run in runs], RunState.CANCELLED, actor)
    assert await admin.fetchval("select count(*) from concurrency") == 0
