"""Runs, steps and events as the API shows them, typed and frozen. What a newer server adds stays in `document`."""

from datetime import datetime
from typing import Any

import msgspec

from tollway.domain.words import FINAL_STATES

FINAL = frozenset(state.value for state in FINAL_STATES)


class Blocked(msgspec.Struct, frozen=True):
    """Why a run does not start: a closed gate, and when it opens if that is known."""

    reason: str
    key: str | None = None
    until: datetime | None = None


class RunError(msgspec.Struct, frozen=True):
    """Why a run did not succeed."""

    code: str
    message: str = ""


class RunUsage(msgspec.Struct, frozen=True):
    """What a run has used so far. Tokens as the vendor counts them; `cost_nano` is exact, `cost_usd` for the eye."""

    llm_calls: int = 0
    steps: int = 0
    tool_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float = 0.0
    cost_nano: int = 0


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A run as `GET /v1/runs/{id}` shows it; `document` is the JSON as it came."""

    id: str
    agent: str
    state: str
    tenant: str = "default"
    version: str | None = None
    lane: str | None = None
    blocked: Blocked | None = None
    input: Any = None
    output: Any = None
    error: RunError | None = None
    attempt: int = 0
    metadata: dict[str, Any] | None = None
    trace_id: str | None = None
    usage: RunUsage = RunUsage()
    degraded: tuple[Any, ...] = ()
    replay_of: str | None = None
    created_at: datetime | None = None
    predicted_start_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    document: dict[str, Any]

    @property
    def final(self) -> bool:
        """Whether the run has ended; nothing about it will change any more."""
        return self.state in FINAL

    @property
    def succeeded(self) -> bool:
        """Whether the agent returned and its output is recorded."""
        return self.state == "succeeded"


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """One journaled step as `GET /v1/runs/{id}/steps` shows it.

    A `cached` step was answered from a cache, which saved `saved_nano`.
    """

    n: int
    name: str = ""
    kind: str = ""
    state: str = ""
    attempt: int | None = None
    route: str | None = None
    cached: bool | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    saved_usd: float | None = None
    saved_nano: int | None = None
    calls: Any = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: Any = None
    document: dict[str, Any]


class RunEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One fact about a run. A `token` event has no `seq`: it is streamed, never stored."""

    type: str
    seq: int | None = None
    at: datetime | None = None
    actor: dict[str, Any] | None = None
    data: Any = None
    document: dict[str, Any]

    @property
    def final(self) -> bool:
        """Whether this event ended the run."""
        return self.type in FINAL


def as_run(document: dict[str, Any]) -> RunView:
    """A run's document, typed. Raises msgspec.ValidationError for what is none."""
    return msgspec.convert({**document, "document": document}, RunView)


def as_step(document: dict[str, Any]) -> StepView:
    """A step's document, typed. Raises msgspec.ValidationError for what is none."""
    return msgspec.convert({**document, "document": document}, StepView)


def as_event(document: dict[str, Any]) -> RunEvent:
    """An event's document, typed. Raises msgspec.ValidationError for what is none."""
    return msgspec.convert({**document, "document": document}, RunEvent)
