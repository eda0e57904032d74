"""The promises P1 to P3 (and the money and the fold) as checks of a history. Pure; each returns what is wrong."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any
from uuid import UUID

from tollway.domain.fold import BadHistory, Happened, fold
from tollway.domain.words import EventType
from tollway.testing.explorer.history import EventFacts, History, RunFacts

_WORKERS_OWN = ("worker", "agent")
_LETS_GO = (EventType.RETRIED, EventType.HANDED_BACK)
_CLOSES = (EventType.STEP_DONE, EventType.STEP_FAILED, EventType.STEP_UNKNOWN)


def violations(history: History) -> list[str]:
    """Everything that is wrong with a history, as sentences."""
    return list(
        chain(
            nothing_is_lost(history),
            keys_made_one_run(history),
            rows_equal_folds(history),
            steps_are_not_repeated(history),
            only_holders_write(history),
            marks_are_accounted_for(history),
            calls_are_known(history),
            money_is_accounted_for(history),
            answers_are_those_recorded(history),
        )
    )


def nothing_is_lost(history: History) -> Iterator[str]:
    """P1: every run answered with 202 has ended as it should, and no run is still live."""
    known = {run.id: run for run in history.runs}
    for number, ids in history.answered.items():
        for run_id in ids:
            if run_id not in known:
                yield f"P1: submit {number} was answered 202 with run {run_id}, which is not on record"
        if not ids:
            yield f"submit {number} was never answered"
    for run in history.runs:
        if run.row is None or run.live is not None:
            yield f"P1: run {run.id} ({run.agent}) has not ended: {run.live}"
            continue
        expected = history.expected.get(run.id)
        if expected is not None and run.row.state not in expected:
            yield f"P1: run {run.id} ({run.agent}) ended {run.row.state} ({run.row.error}), not {_any_of(expected)}"


def keys_made_one_run(history: History) -> Iterator[str]:
    """Submits that carried one idempotency key were all answered with one run."""
    for number in history.keyed:
        if len(set(history.answered.get(number, ()))) > 1:
            yield f"P1: submit {number} made several runs with one idempotency key: {history.answered[number]}"


def rows_equal_folds(history: History) -> Iterator[str]:
    """P10: the events have no gaps, and each run's row is the fold of its events."""
    for run in history.runs:
        try:
            folded = fold(Happened(e.seq, e.type, e.at, e.data) for e in history.events.get(run.id, ()))
        except BadHistory as error:
            yield f"P10: the events of run {run.id} are no history: {error}"
            continue
        if run.row is not None and folded != run.row:
            yield f"P10: the row of run {run.id} ({run.agent}) is not the fold of its events:\n  {run.row}\n  {folded}"


def steps_are_not_repeated(history: History) -> Iterator[str]:
    """P2: a step is intended again only after its earlier call was failed or unknown, never after it was done."""
    for run in history.runs:
        last: dict[int, str] = {}
        for event in history.events.get(run.id, ()):
            if event.type == EventType.STEP_INTENT:
                n = _data(event)["n"]
                if last.get(n) == EventType.STEP_DONE:
                    yield f"P2: step {n} of run {run.id} was called again after its outcome was recorded"
                if last.get(n) == EventType.STEP_INTENT:
                    yield f"P2: step {n} of run {run.id} was called again before its earlier call was found unknown"
                last[n] = event.type
            elif event.type in _CLOSES:
                n = _data(event)["n"]
                if last.get(n) != EventType.STEP_INTENT:
                    yield f"P2: step {n} of run {run.id} has {event.type} after {last.get(n)}"
                last[n] = event.type
        if run.row is not None:
            for n, kind in last.items():
                if kind == EventType.STEP_INTENT:
                    yield f"P2: run {run.id} ({run.agent}, {run.row.state}) ended with step {n} left an intent"
        for step in history.steps.get(run.id, ()):
            if last.get(step.n) != f"step.{step.state}":
                yield f"P10: step {step.n} of run {run.id} is {step.state}, but its last event is {last.get(step.n)}"


def only_holders_write(history: History) -> Iterator[str]:
    """P3: after another worker's claim, or after the run was taken back, a worker writes nothing."""
    for run in history.runs:
        holder: str | None = None
        for event in history.events.get(run.id, ()):
            if event.type == EventType.CLAIMED:
                if holder is not None:
                    yield f"P3: run {run.id} was claimed by {event.actor_id} while {holder} held it"
                holder = event.actor_id
            elif event.actor_kind in _WORKERS_OWN and event.actor_id != holder:
                yield f"P3: event {event.seq} ({event.type}) of run {run.id} is by {event.actor_id}, not by {holder}"
            if event.type in _LETS_GO:
                holder = None


def marks_are_accounted_for(history: History) -> Iterator[str]:
    """P2: a task that must not be repeated ran at most once; one that may, not more often than it was intended."""
    for mark, times in Counter(history.marks).items():
        kind, _, text = mark.partition(" ")
        intents = sum(
            1
            for event in history.events.get(UUID(text), ())
            if event.type == EventType.STEP_INTENT and _data(event)["kind"] == "task"
        )
        most = 1 if kind == "once" else intents
        if times > most:
            yield f"P2: the task of run {text} ({kind}) was executed {times} times, at most {most} were allowed"
    for run in history.runs:
        done = any(step.kind == "task" and step.state == "done" for step in history.steps.get(run.id, ()))
        if done and not any(mark.endswith(str(run.id)) for mark in history.marks):
            yield f"P2: the task of run {run.id} is recorded as done, and was never executed"


def calls_are_known(history: History) -> Iterator[str]:
    """P2: the provider saw each call once, and each was intended first."""
    intended = {
        _data(event)["call_id"]
        for events in history.events.values()
        for event in events
        if event.type == EventType.STEP_INTENT
    }
    for call_id, times in Counter(row.call_id for row in history.provider).items():
        if call_id not in intended:
            yield f"P2: the provider saw call {call_id}, which nobody intended"
        if times > 1:
            yield f"P2: the provider saw call {call_id} {times} times"


def money_is_accounted_for(history: History) -> Iterator[str]:
    """Every charge has one settle of its amount or one unknown of at least it; no settle is without a charge."""
    charged = {row.call_id: row.cost_nano for row in history.provider if row.cost_nano}
    ours: dict[str, list[tuple[str, int]]] = {}
    for entry in history.entries:
        ours.setdefault(str(entry.call_id), []).append((entry.kind, entry.nano))
    for call_id, nano in charged.items():
        found = ours.get(str(call_id), [])
        if len(found) != 1:
            yield f"P2: call {call_id} cost {nano} nano-dollars; our ledger has {found or 'nothing'} for it"
            continue
        kind, noted = found[0]
        if not ((kind == "settle" and noted == nano) or (kind == "unknown" and noted >= nano)):
            yield f"P2: call {call_id} cost {nano} nano-dollars; our ledger says {kind} {noted}"
    for call_id, found in ours.items():
        if call_id not in charged and any(kind == "settle" and nano for kind, nano in found):
            yield f"P2: our ledger settles call {call_id} ({found}), which the provider did not charge"


def answers_are_those_recorded(history: History) -> Iterator[str]:
    """P2: what a run returned is what its steps recorded, so no answer was asked for twice behind the journal."""
    for run in history.runs:
        if run.row is None or run.row.state != "succeeded" or run.output is None:
            continue
        recorded = _recorded_texts(history, run)
        if recorded and json.loads(run.output) != recorded:
            yield f"P2: run {run.id} ({run.agent}) returned {run.output!r}, its journal says {recorded}"


def _recorded_texts(history: History, run: RunFacts) -> list[str]:
    steps = sorted(history.steps.get(run.id, ()), key=lambda step: [int(part) for part in step.path.split(".")])
    return [json.loads(step.result)["text"] for step in steps if step.kind == "llm" and step.result is not None]


def _data(event: EventFacts) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(event.data) if event.data else {}
    return data


def _any_of(states: frozenset[str]) -> str:
    return " or ".join(sorted(states))
