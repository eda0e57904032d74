"""What a breaker is given, gives out and tells: options, tickets, changes, its state for display."""

import math
from dataclasses import dataclass
from typing import Literal, Self

from tollway.config import Breaker as BreakerSettings
from tollway.config import Dependency, Route

State = Literal["closed", "open", "half_open", "ramping"]

TOKENS_MIN = 20


@dataclass(frozen=True, slots=True)
class BreakerOptions:
    """The settings of a breaker (see `config.Breaker`) and the latency budgets of its route, in seconds."""

    window_s: float = 60.0
    calls_min: int = 20
    failure_share: float = 0.5
    open_s: float = 2.0
    open_max_s: float = 30.0
    probe_share: float = 0.05
    ramp_s: float = 10.0
    latency_p99_max_s: float = 5.0
    latency_per_token_max_s: float | None = None

    @classmethod
    def of(cls, settings: BreakerSettings, route: Route) -> Self:
        """The options for a configured route."""
        return cls(
            **settings.model_dump(),
            latency_p99_max_s=route.latency_p99_max_s,
            latency_per_token_max_s=route.latency_per_token_max_s,
        )

    @classmethod
    def of_dependency(cls, settings: BreakerSettings, own: Dependency) -> Self:
        """The options for a dependency: its own settings before those of all breakers. By itself none is slow."""
        return cls(**{"latency_p99_max_s": math.inf, **settings.model_dump(), **own.model_dump(exclude_none=True)})

    def budget_s(self, output_tokens: int | None) -> float:
        """What a call may take; by tokens, one of fewer than TOKENS_MIN has the time of so many.

        A few tokens take the time of the first, which says nothing of the rest. Infinite where nobody can tell.
        """
        if self.latency_per_token_max_s is None:
            return self.latency_p99_max_s
        if output_tokens is None:
            return float("inf")
        return self.latency_per_token_max_s * max(output_tokens, TOKENS_MIN)


class Ticket:
    """A call under way on the route; given back with `Breaker.end` or `Breaker.drop`, the first of which counts.

    `first_s` is how long the first piece of a stream took, where that is what it is judged by.
    """

    __slots__ = ("begun_at", "counted_s", "done", "epoch", "first_s", "overdue_at", "probe", "rests_since", "timed")

    def __init__(self, begun_at: float, overdue_at: float, epoch: int, probe: bool) -> None:
        self.begun_at = begun_at
        self.overdue_at = overdue_at
        self.epoch = epoch
        self.probe = probe
        self.counted_s: float | None = None
        self.rests_since: float | None = None
        self.first_s: float | None = None
        self.timed = False
        self.done = False


@dataclass(frozen=True, slots=True)
class Change:
    """What a breaker decided or began: `open` until `until`, for `pause_s`; `ramping`; `closed`; `probing`.

    While one process is probing, until `until` at most, others need not.
    """

    kind: Literal["open", "probing", "ramping", "closed"]
    until: float = 0.0
    pause_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """A breaker for display.

    `since` is when its state began, None if it was never another; `opens_at` when an open one is worth asking again.

    The share and the p99 (seconds) are of the window's calls; `opened` counts openings, `reason` is that of the last.
    """

    state: State
    since: float | None
    failure_share: float
    p99_s: float | None
    calls: int
    opened: int
    reason: str
    opens_at: float | None
