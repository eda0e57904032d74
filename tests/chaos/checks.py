"""What must hold of every history, whatever befell the processes (P1, P2, P3, P10). Pure: a history in, faults out."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from history import Event, History, RunHistory

from tollway.domain.fold import fold

LOST_MAX = 3
"""So many lost workers end a run as poison."""


def faults(history: History) -> list[str]:
    """Every way in which a history that has come to rest breaks a promise."""
    found = []
    for run in history.runs.values():
        found += [f"run {run.id} ({run.agent}): {fault}" for fault in run_faults(run)]
    return [*found, *_calls(history), *_money(history), *_executions(history), *_queue(history)]


def run_faults(run: RunHistory) -> Iterator[str]:
    """What is wrong with one run by its own row and events."""
    if not run.final:
        yield "accepted, and never ended"
    numbers = [event.seq for event in run.events]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"its events are numbered {numbers}"
    if not run.events or run.events[0].type != "accepted":
        yield "its history does not begin with `accepted`"
    if run.final:
        folded = fold(run.events)
        if folded != run.row:
            yield f"its row is not the fold of its events:\n    row    {run.row}\n    events {folded}"
    yield from _holders(run.events)
    yield from _repeats(run.events)


def lost_workers(run: RunHistory) -> int:
    """How often it lost its worker."""
    return sum(1 for event in run.events if event.type == "retried" and _data(event).get("reason") == "lost")


def _holders(events: Iterable[Event]) -> Iterator[str]:
    """P3: who is not the holder of the run's last claim writes nothing."""
    holder: str | None = None
    for event in events:
        if event.type == "claimed":
            if holder is not None:
                yield f"event {event.seq}: claimed by {event.actor_id} while {holder} held it"
            holder = event.actor_id
        elif event.actor_kind in ("worker", "agent") and event.actor_id != holder:
            yield f"event {event.seq}: {event.type} by worker {event.actor_id} while {holder} held it"
        if event.type in ("retried", "handed_back"):
            holder = None


def _repeats(events: Iterable[Event]) -> Iterator[str]:
    """P2: a step is intended again only after its last intent came to `failed` or `unknown`."""
    stands: dict[int, str] = {}
    calls: dict[int, str] = {}
    for event in events:
        if not event.type.startswith("step."):
            continue
        data = _data(event)
        n, before = data["n"], stands.get(data["n"])
        if event.type == "step.intent":
            if before not in (None, "step.failed", "step.unknown"):
                yield f"event {event.seq}: step {n} is intended again after {before}"
            calls[n] = data["call_id"]
        elif before != "step.intent":
            yield f"event {event.seq}: {event.type} of step {n} after {before}"
        elif event.type == "step.unknown" and data["call_id"] != calls[n]:
            yield f"event {event.seq}: call {data['call_id']} is unknown, but step {n} was at call {calls[n]}"
        stands[n] = event.type


def _calls(history: History) -> Iterator[str]:
    """P2: every call at the provider has an intent of its own, and no call came twice."""
    intended = {_data(event)["call_id"] for run in history.runs.values() for event in _intents(run)}
    for call_id, times in Counter(call.call_id for call in history.calls).items():
        if times > 1:
            yield f"call {call_id} came to the provider {times} times"
        if call_id not in intended:
            yield f"call {call_id} came to the provider without an intent"


def _money(history: History) -> Iterator[str]:
    """Every call of an ended run is in the ledger exactly once: settled at its cost, unknown at most, or released."""
    entries: dict[str, list[tuple[str, int]]] = defaultdict(list)
    settled: Counter[Any] = Counter()
    for money in history.ledger:
        entries[money.call_id].append((money.kind, money.nano))
        settled[money.run_id] += money.nano if money.kind == "settle" else 0
    charged = {call.call_id: call.cost_nano for call in history.calls}
    intended = set()
    for run in history.runs.values():
        if run.final and settled[run.id] != run.row.cost_nano:
            yield f"run {run.id}: cost {run.row.cost_nano} nano, but {settled[run.id]} are settled"
        for event in _intents(run):
            data = _data(event)
            intended.add(data["call_id"])
            if data["kind"] == "llm" and run.final:
                yield from _entry(run, data["call_id"], entries[data["call_id"]], charged.get(data["call_id"]))
    for call_id in entries.keys() - intended:
        if entries[call_id]:
            yield f"call {call_id} is in the ledger without an intent: {entries[call_id]}"


def _entry(run: RunHistory, call_id: str, entries: list[tuple[str, int]], charged: int | None) -> Iterator[str]:
    if len(entries) != 1:
        yield f"run {run.id}: call {call_id} (charged {charged}) has {len(entries)} entries in the ledger: {entries}"
        return
    (kind, nano) = entries[0]
    if kind == "settle" and nano != charged:
        yield f"run {run.id}: call {call_id} is settled at {nano}, but the provider charged {charged}"
    if kind == "unknown" and nano < (charged or 0):
        yield f"run {run.id}: call {call_id} is unknown at {nano}, but the provider charged {charged}"
    if kind == "release" and charged:
        yield f"run {run.id}: call {call_id} is released, but the provider charged {charged}"


def _executions(history: History) -> Iterator[str]:
    """P2 of tasks: each execution has an intent, and one that must not be repeated never is."""
    for run in history.runs.values():
        intents = Counter(_data(event)["n"] for event in _intents(run))
        tasks = {step["n"]: step["name"] for step in run.steps if step["kind"] == "task"}
        most: Counter[str] = Counter()
        for n, name in tasks.items():
            most[name] += 1 if name == "once" else intents[n]
        for (run_id, name), times in history.executions.items():
            if run_id == str(run.id) and times > most[{"branch": "mark"}.get(name, name)]:
                yield f"run {run.id}: task {name!r} ran {times} times"


def _queue(history: History) -> Iterator[str]:
    for run_id in history.queued:
        if run_id in history.runs and history.runs[run_id].final:
            yield f"run {run_id} has ended, but stands in the queue"


def _intents(run: RunHistory) -> Iterator[Event]:
    return (event for event in run.events if event.type == "step.intent")


def _data(event: Event) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(event.data) if event.data else {}
    return found
