"""The explorer's checks on forged histories: what a broken build would leave behind is seen."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from checks import faults
from history import Call, Event, History, Money, RunHistory

from tollway.domain.fold import fold

RUN = UUID(int=1)
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)

Told = tuple[str, str, dict[str, Any]]
_USE = {"calls": 1, "input_tokens": 3, "output_tokens": 5, "cached_tokens": 0, "cost_nano": 10}


def intent(call: str, worker: str = "1", n: int = 1, kind: str = "llm") -> Told:
    """A step is intended."""
    return "step.intent", worker, {"n": n, "path": str(n), "kind": kind, "call_id": call}


def done(worker: str = "1", n: int = 1) -> Told:
    """It is done, for 10 nano-dollars."""
    return "step.done", worker, {"n": n, **_USE}


def unknown(call: str, worker: str = "1", n: int = 1) -> Told:
    """It was cut."""
    return "step.unknown", worker, {"n": n, "call_id": call, "reserved_nano": 50}


CLAIMED: Told = ("claimed", "1", {"attempt": 1})
LOST: Told = ("retried", "keeper", {"reason": "lost", "worker": "1"})
AGAIN: Told = ("claimed", "2", {"attempt": 2})
FAILED: Told = ("step.failed", "1", {"n": 1, **_USE, "cost_nano": 0})
ENDED: Told = ("succeeded", "1", {"attempt": 1})
ENDED_AGAIN: Told = ("succeeded", "2", {"attempt": 2})


def history(
    *told: Told, charged: dict[str, int] | None = None, entries: dict[str, tuple[str, int]] | None = None
) -> History:
    """A history of one run whose row is what its events say."""
    events = [Event(1, "accepted", _BEGAN, "key", "k", None)]
    for seq, (kind, who, data) in enumerate(told, 2):
        actor = "keeper" if who == "keeper" else "worker"
        events.append(Event(seq, kind, _BEGAN + timedelta(seconds=seq), actor, who, json.dumps(data)))
    row = fold(events)
    run = RunHistory(RUN, "one_call", row, row.ended_at is not None, None, events)
    money = [Money(call, kind, RUN, nano) for call, (kind, nano) in (entries or {}).items()]
    calls = [Call(call, cost, 200) for call, cost in (charged or {}).items()]
    return History({RUN: run}, money, calls, Counter(), [])


def sound() -> History:
    """A run whose worker was lost in its call, and that another worker ended."""
    return history(
        CLAIMED,
        intent("a"),
        LOST,
        AGAIN,
        unknown("a", "2"),
        intent("b", "2"),
        done("2"),
        ENDED_AGAIN,
        charged={"a": 10, "b": 10},
        entries={"a": ("unknown", 50), "b": ("settle", 10)},
    )


def test_a_sound_history_has_no_faults() -> None:
    """A run that was lost, claimed again, and paid for twice with both calls in the ledger is in order."""
    assert faults(sound()) == []


@pytest.mark.parametrize(
    ("told", "charged", "entries", "said"),
    [
        ((CLAIMED, intent("a"), done()), {"a": 10}, {"a": ("settle", 10)}, "never ended"),
        ((CLAIMED, AGAIN, ENDED_AGAIN), {}, {}, "claimed by 2 while 1 held it"),
        ((CLAIMED, LOST, AGAIN, ENDED), {}, {}, "succeeded by worker 1 while 2 held it"),
        (
            (CLAIMED, intent("a"), done(), intent("b"), done(), ENDED),
            {"a": 10, "b": 10},
            {"a": ("settle", 10), "b": ("settle", 10)},
            "intended again after step.done",
        ),
        ((CLAIMED, intent("a"), LOST, AGAIN, intent("b", "2"), ENDED_AGAIN), {}, {}, "again after step.intent"),
        ((CLAIMED, intent("a"), done(), ENDED), {"x": 10}, {"a": ("settle", 10)}, "x came to the provider without"),
        ((CLAIMED, intent("a"), done(), ENDED), {"a": 10}, {}, "has 0 entries"),
        ((CLAIMED, intent("a"), done(), ENDED), {"a": 11}, {"a": ("settle", 10)}, "the provider charged 11"),
        ((CLAIMED, intent("a"), unknown("a"), ENDED), {"a": 60}, {"a": ("unknown", 50)}, "is unknown at 50"),
        ((CLAIMED, intent("a"), FAILED, ENDED), {"a": 10}, {"a": ("release", 0)}, "is released"),
        ((CLAIMED, ENDED), {}, {"z": ("settle", 10)}, "z is in the ledger without an intent"),
    ],
)  # fmt: skip
def test_a_broken_promise_is_seen(
    told: tuple[Told, ...], charged: dict[str, int], entries: dict[str, tuple[str, int]], said: str
) -> None:
    """What breaks a promise is named by the check of that promise."""
    found = faults(history(*told, charged=charged, entries=entries))
    assert any(said in fault for fault in found), found


def test_a_call_that_came_twice_is_seen() -> None:
    """P2: one call id at the provider twice is a fault, whatever the record says."""
    forged = sound()
    forged.calls.append(Call("b", 10, 200))
    assert any("b came to the provider 2 times" in fault for fault in faults(forged))


def test_a_gap_in_the_numbers_is_seen() -> None:
    """Events are numbered 1 to n."""
    forged = sound()
    del forged.runs[RUN].events[2]
    assert any("its events are numbered" in fault for fault in faults(forged))


def test_a_row_that_is_not_the_fold_is_seen() -> None:
    """P10: a row that says more than its events is a fault."""
    forged = sound()
    forged.runs[RUN].row.llm_calls += 1
    assert any("not the fold of its events" in fault for fault in faults(forged))


def test_a_repeated_careful_task_is_seen() -> None:
    """P2: a task that must not be repeated ran twice."""
    forged = history(CLAIMED, intent("a", kind="task"), done(), ENDED)
    forged.runs[RUN].steps.append({"n": 1, "kind": "task", "name": "once"})
    forged.executions[str(RUN), "once"] = 2
    assert any("task 'once' ran 2 times" in fault for fault in faults(forged))


def test_an_ended_run_in_the_queue_is_seen() -> None:
    """A run that has ended leaves the queue."""
    forged = sound()
    forged.queued.append(RUN)
    assert any("stands in the queue" in fault for fault in faults(forged))
