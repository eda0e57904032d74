"""The journal's writes as columns, one array each, as its statements take them."""

from collections.abc import Sequence
from typing import Any

from tollway.record.writes import RunWrite


def headers_of(writes: Sequence[RunWrite]) -> list[list[Any]]:
    """What each write does to its run in the queue."""
    columns: list[list[Any]] = [[] for _ in range(10)]
    for write in writes:
        calls = tokens_in = tokens_out = cached = cost = 0
        for outcome in write.outcomes:
            calls += outcome.calls
            tokens_in += outcome.usage.input_tokens
            tokens_out += outcome.usage.output_tokens
            cached += outcome.usage.cached_tokens
            cost += outcome.cost_nano
        values = (
            write.run_id,
            write.fence,
            write.seq,
            len(write.facts),
            write.new_steps,
            calls,
            tokens_in,
            tokens_out,
            cached,
            cost,
        )
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    return columns


def _table(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def intents_of(writes: Sequence[RunWrite]) -> list[list[Any]]:
    """The intents of all writes."""
    rows = [
        (
            write.run_id,
            intent.n,
            intent.path,
            intent.kind,
            intent.name,
            intent.attempt,
            write.fence,
            intent.call_id,
            intent.reserved.nano,
            intent.started_at,
            intent.reserved.route,
            intent.reserved.tier,
            intent.reserved.asked,
            intent.reserved.model,
            intent.reserved.price_version,
        )
        for write in writes
        for intent in write.intents
    ]
    return _table(rows, 15)


def outcomes_of(writes: Sequence[RunWrite]) -> list[list[Any]]:
    """The outcomes of all writes."""
    rows = [
        (
            write.run_id,
            outcome.n,
            outcome.state,
            outcome.ended_at,
            outcome.result,
            outcome.error,
            outcome.route,
            outcome.calls,
            outcome.usage.input_tokens,
            outcome.usage.output_tokens,
            outcome.usage.cached_tokens,
            outcome.cost_nano,
            outcome.cached,
            outcome.saved_nano,
        )
        for write in writes
        for outcome in write.outcomes
    ]
    return _table(rows, 14)


def entries_of(writes: Sequence[RunWrite]) -> list[list[Any]]:
    """The ledger entries of all writes, with whose money they are."""
    rows = [
        (
            entry.call_id,
            entry.kind,
            write.run_id,
            entry.n,
            write.tenant,
            entry.reserved.route,
            entry.reserved.model,
            entry.reserved.price_version,
            entry.nano,
            entry.usage.input_tokens,
            entry.usage.output_tokens,
            entry.usage.cached_tokens,
            entry.usage.estimated,
            entry.at,
            write.key_id,
            write.task_type,
            entry.step,
            entry.reserved.tier,
            entry.reserved.asked,
            entry.saving.cached,
            entry.saving.nano,
            entry.saving.prompt_nano,
            entry.saving.shift_nano,
        )
        for write in writes
        for entry in write.entries
    ]
    return _table(rows, 23)


def facts_of(writes: Sequence[RunWrite]) -> list[list[Any]]:
    """The events of all writes, numbered."""
    rows = [
        (write.run_id, write.seq + offset, fact.type, fact.at, fact.actor_kind, fact.actor_id, fact.data)
        for write in writes
        for offset, fact in enumerate(write.facts)
    ]
    return _table(rows, 7)


def moves_of(writes: Sequence[RunWrite]) -> list[list[Any]]:
    """What all writes move in budgets."""
    rows = [
        (write.run_id, move.accounts, move.spent_nano, move.reserved_nano) for write in writes for move in write.moves
    ]
    return _table(rows, 4)
