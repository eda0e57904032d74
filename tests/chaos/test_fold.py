"""P10: a run's row is the fold of its events. The histories that processes leave after chaos are held to it as well."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
from history import Event, read_history

from record_kit import accept_all, claim, fact, ids, new_claims, new_run, whole_cycle, write_of
from tollway.domain.fold import RunFold, fold
from tollway.domain.words import ActorKind, RunState
from tollway.record.cancel import end_queued_runs
from tollway.record.database import Database
from tollway.record.journal import JournalRecord
from tollway.record.processes import register_process
from tollway.record.upkeep import Upkeep
from tollway.record.writes import Intent, Reservation

_AT = datetime(2026, 1, 1, tzinfo=UTC)


def test_an_empty_history_is_a_queued_run() -> None:
    """Nothing told: queued, its first attempt to come."""
    assert fold([]) == RunFold()


def test_a_history_is_folded() -> None:
    """Claims start and attempts count, steps add up, the end tells state and error."""
    told: list[tuple[str, str | None]] = [
        ("accepted", None),
        ("claimed", '{"attempt":1}'),
        ("step.intent", '{"n":1}'),
        ("step.failed", _use(calls=1, input_tokens=2, output_tokens=0, cached_tokens=0, cost_nano=5)),
        ("retried", '{"reason":"error"}'),
        ("claimed", '{"attempt":2}'),
        ("handed_back", None),
        ("claimed", '{"attempt":2}'),
        ("step.unknown", '{"n":1}'),
        ("step.intent", '{"n":1}'),
        ("step.done", _use(calls=1, input_tokens=2, output_tokens=3, cached_tokens=1, cost_nano=7)),
        ("progress", "7"),
        ("failed", '{"code":"rejected","message":"no"}'),
        ("discarded", None),
        ("replayed", '{"run_id":"x"}'),
    ]
    events = [Event(n, kind, _AT + timedelta(seconds=n), "worker", "1", data) for n, (kind, data) in enumerate(told, 1)]
    assert fold(events) == RunFold(RunState.FAILED, 2, 1, 2, 4, 3, 1, 12, events[1].at, events[12].at, "rejected", "no")


async def test_every_end_is_the_fold_of_its_events(database: Database, admin: asyncpg.Connection) -> None:
    """Succeeded at once, after an error, after a lost worker; cancelled; dead as poison with a call cut: all agree."""
    await whole_cycle(database)
    await _poison(database)
    history = await read_history(admin, [], Path("/nonexistent"))
    for run in history.runs.values():
        assert fold(run.events) == run.row, run.events
        assert [event.seq for event in run.events] == list(range(1, len(run.events) + 1))
    states = Counter(run.row.state for run in history.runs.values())
    assert states == {RunState.SUCCEEDED: 3, RunState.CANCELLED: 2, RunState.DEAD: 1}
    assert [(money.kind, money.nano) for money in history.ledger] == [("unknown", 50), ("unknown", 50)]


async def _poison(database: Database) -> None:
    """Two runs whose worker was lost in a call: one is then buried, the other cancelled."""
    runs = [new_run(), new_run()]
    await accept_all(database, runs)
    claims, worker = await new_claims(database)
    record = JournalRecord(database, worker)
    for held in (await claim(claims)).claims:
        write = write_of(held, told := fact("step.intent", '{"n":1}'))
        write.intents.append(Intent(1, "1", "llm", "ask", 1, ids.new(), Reservation(50, "r"), told.at))
        write.new_steps = 1
        assert await record.write([write]) == [True]
    keeper = Upkeep(database, await register_process(database, "keeper", 12.0))
    await keeper.reap(worker)
    ends = {RunState.DEAD: ("poison", "it lost its worker"), RunState.CANCELLED: (None, None)}
    for run, (state, reason) in zip(runs, ends.items(), strict=True):
        ended = await end_queued_runs(database, [run.id], state, (ActorKind.KEEPER, "9"), reason)
        assert ended.ids == [run.id]


def _use(**used: Any) -> str:
    return '{"n":1,' + ",".join(f'"{name}":{value}' for name, value in used.items()) + "}"
