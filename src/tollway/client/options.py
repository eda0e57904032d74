"""What the methods of `Client` take by name."""

from collections.abc import Mapping
from typing import Any, TypedDict


class SubmitOptions(TypedDict, total=False):
    """What may be asked of a run beside its agent and input; durations in seconds, money in dollars."""

    lane: str
    priority_s: float
    metadata: Mapping[str, Any]
    delay_s: float
    deadline_s: float
    ttl_s: float
    max_attempts: int
    budget_usd: float
    concurrency_key: str
    concurrency_policy: str
    webhook: Mapping[str, str]


class RunSpec(SubmitOptions, total=False):
    """One run of a batch; `idempotency_key` is made when not given."""

    agent: str
    input: Any
    idempotency_key: str


class RunFilter(TypedDict, total=False):
    """Which runs to list; times are RFC 3339, `metadata` matches each of its keys."""

    state: str
    agent: str
    lane: str
    tenant: str
    created_after: str
    created_before: str
    metadata: Mapping[str, str]


class ReplayOptions(TypedDict, total=False):
    """How dead runs are replayed; `input` is for one run, `input_patch` (a JSON merge patch) for each of many."""

    from_failed_step: bool
    input: Any
    input_patch: Mapping[str, Any]


class TenantSettings(TypedDict, total=False):
    """A tenant's settings; None lifts a limit."""

    name: str
    weight: float
    runs_per_s: float | None
    max_queued: int | None
    max_running: int | None
    tokens_per_min: int | None
    tokens_per_day: int | None
    paused: bool
    alert_webhook: Mapping[str, str | None] | None
