"""A run's row as the fold of its events: whatever `run` says of a run's way and use, its history says too (P10)."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from tollway.domain.words import FINAL_EVENTS, EventType, RunState

_STEP_ENDS = frozenset({EventType.STEP_DONE, EventType.STEP_FAILED})
_BACK = frozenset({EventType.RETRIED, EventType.HANDED_BACK, EventType.RESUMED})
_USES = ("llm_calls", "input_tokens", "output_tokens", "cached_tokens", "cost_nano")


class Told(Protocol):
    """An event as the record keeps it; `data` is JSON text."""

    @property
    def type(self) -> str:
        """Its type, one of EventType."""

    @property
    def at(self) -> datetime:
        """When it happened."""

    @property
    def data(self) -> str | None:
        """What more there is to say, as a JSON object."""


@dataclass(slots=True)
class RunFold:
    """What a history tells of its run; tokens, money (nano-dollars) and times as in the table `run`."""

    state: RunState = RunState.QUEUED
    attempt: int = 1
    steps: int = 0
    llm_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_nano: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error_code: str | None = None
    error_message: str | None = None
    events: int = field(default=0, compare=False)


def fold(events: Iterable[Told]) -> RunFold:
    """The run after all its `events`, which come in the order of their numbers. Unknown types change nothing."""
    run = RunFold()
    for event in events:
        run.events += 1
        _apply(run, event)
    return run


def _apply(run: RunFold, event: Told) -> None:
    kind = event.type
    if kind == EventType.CLAIMED:
        run.state = RunState.RUNNING
        run.started_at = run.started_at or event.at
    elif kind == EventType.STEP_INTENT:
        run.steps = max(run.steps, int(_data(event)["n"]))
    elif kind in _STEP_ENDS:
        data = _data(event)
        for use in _USES:
            setattr(run, use, getattr(run, use) + int(data["calls" if use == "llm_calls" else use]))
    elif kind in _BACK:
        run.state = RunState.QUEUED
        run.attempt += kind == EventType.RETRIED
    elif kind in (EventType.WAITING, EventType.PARKED):
        run.state = RunState(kind)
    elif kind in FINAL_EVENTS:
        data = _data(event)
        # Poison dies in the queue: the attempt that its last lost worker made due never began.
        run.attempt -= kind == EventType.DEAD and run.state != RunState.RUNNING
        run.state = RunState(kind)
        run.ended_at = event.at
        run.error_code, run.error_message = data.get("code"), data.get("message")


def _data(event: Told) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(event.data) if event.data else {}
    return found
