"""States, kinds and types: the vocabulary every other room shares.

A run moves

    queued -> running -> succeeded | failed | cancelled | expired | dead
       ^         |  |
       |         |  +-> waiting | parked -> queued
       +---------+      (retry, lost worker, hand-back)

and the final states have no way out.
"""

from enum import StrEnum


class RunState(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    PARKED = "parked"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DEAD = "dead"


LIVE_STATES = frozenset({RunState.QUEUED, RunState.RUNNING, RunState.WAITING, RunState.PARKED})
FINAL_STATES = frozenset(RunState) - LIVE_STATES


class StepKind(StrEnum):
    """What a step does. Only `llm` and `task` have makers so far."""

    LLM = "llm"
    TASK = "task"
    TOOL = "tool"
    SEARCH = "search"
    CALL = "call"
    SLEEP = "sleep"
    APPROVAL = "approval"
    EVENT = "event"


class EventType(StrEnum):
    """The append-only facts about a run, in the contract's words."""

    ACCEPTED = "accepted"
    CLAIMED = "claimed"
    STEP_INTENT = "step.intent"
    STEP_DONE = "step.done"
    STEP_FAILED = "step.failed"
    STEP_UNKNOWN = "step.unknown"
    PROGRESS = "progress"
    WAITING = "waiting"
    PARKED = "parked"
    RESUMED = "resumed"
    HANDED_BACK = "handed_back"
    RETRIED = "retried"
    DEGRADED = "degraded"
    CANCELLED = "cancelled"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    DEAD = "dead"
    REPLAYED = "replayed"
    DISCARDED = "discarded"
    TOKEN = "token"  # over SSE only, never stored


FINAL_EVENTS = frozenset(EventType(state.value) for state in FINAL_STATES)


class ActorKind(StrEnum):
    """Who caused an event."""

    KEY = "key"
    WORKER = "worker"
    AGENT = "agent"
    USER = "user"
    KEEPER = "keeper"


class Scope(StrEnum):
    """What an API key may do; `admin` implies every other scope."""

    SUBMIT = "submit"
    READ = "read"
    CANCEL = "cancel"
    APPROVE = "approve"
    ADMIN = "admin"


DEFAULT_LANES = ("interactive", "standard", "batch")
DEFAULT_TENANT = "default"
