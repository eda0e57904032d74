"""All that was written of a set of runs: by the record, by the provider, by the tasks themselves."""

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from tollway.domain.fold import RunFold
from tollway.domain.words import RunState


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a run."""

    seq: int
    type: str
    at: datetime
    actor_kind: str
    actor_id: str
    data: str | None


@dataclass(frozen=True, slots=True)
class Call:
    """A row of the provider's ledger."""

    call_id: str
    cost_nano: int
    status: int


@dataclass(frozen=True, slots=True)
class Money:
    """A row of our ledger."""

    call_id: str
    kind: str
    run_id: UUID
    nano: int


@dataclass(slots=True)
class RunHistory:
    """One run: its row (None in `state` while it lives), events in order, steps."""

    id: UUID
    agent: str
    row: RunFold
    final: bool
    output: Any
    events: list[Event] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def calls(self) -> list[tuple[int, str]]:
        """The step's number and the call's id of every intent."""
        told = [json.loads(event.data or "{}") for event in self.events if event.type == "step.intent"]
        return [(data["n"], data["call_id"]) for data in told]


@dataclass(slots=True)
class History:
    """What is left when everything has come to rest. `executions` counts (run, task) as the tasks wrote them down."""

    runs: dict[UUID, RunHistory]
    ledger: list[Money]
    calls: list[Call]
    executions: Counter[tuple[str, str]]
    queued: list[UUID]


_RUNS = """select id, agent, state, attempt, steps, llm_calls, input_tokens, output_tokens, cached_tokens, cost_nano,
    started_at, ended_at, error_code, error_message, output from run where id >= $1"""
_EVENTS = "select run_id, seq, type, at, actor_kind, actor_id, data from event where run_id >= $1 order by run_id, seq"
_STEPS = "select run_id, n, path, kind, name, state, call_id, calls, cost_nano from step where run_id >= $1"
_LEDGER = "select call_id, kind, run_id, nano from ledger where run_id >= $1"
_QUEUED = "select run_id from queue where run_id >= $1"
_EVER = UUID(int=0)


async def read_history(
    connection: asyncpg.Connection, calls: list[dict[str, Any]], executions: Path | None = None, since: UUID = _EVER
) -> History:
    """The history of the runs with ids from `since` on. `calls` are the provider's rows."""
    runs = {}
    for row in await connection.fetch(_RUNS, since):
        output = json.loads(row["output"]) if row["output"] else None
        runs[row["id"]] = RunHistory(row["id"], row["agent"], _row(row), row["state"] is not None, output)
    for row in await connection.fetch(_EVENTS, since):
        runs[row["run_id"]].events.append(Event(*list(row)[1:]))
    for row in await connection.fetch(_STEPS, since):
        runs[row["run_id"]].steps.append(dict(row))
    money = [Money(str(row[0]), *list(row)[1:]) for row in await connection.fetch(_LEDGER, since)]
    done: Counter[tuple[str, str]] = Counter()
    if executions is not None and executions.exists():
        for line in executions.read_text().splitlines():
            run_id, name, _ = line.split()
            done[run_id, name] += 1
    return History(
        runs,
        money,
        [Call(call["call_id"] or "", call["cost_nano"], call["status"]) for call in calls],
        done,
        [row[0] for row in await connection.fetch(_QUEUED, since)],
    )


def _row(row: asyncpg.Record) -> RunFold:
    return RunFold(
        RunState(row["state"] or "queued"),
        row["attempt"] or 1,
        row["steps"] or 0,
        row["llm_calls"] or 0,
        row["input_tokens"] or 0,
        row["output_tokens"] or 0,
        row["cached_tokens"] or 0,
        row["cost_nano"] or 0,
        row["started_at"],
        row["ended_at"],
        row["error_code"],
        row["error_message"],
    )
