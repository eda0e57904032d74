"""Budgets: money that may be spent in a period, by whom; and the rungs on which service degrades before it ends."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from tollway.domain.llm import Caller


class Period(StrEnum):
    """How long a budget lasts before it begins anew, in its time zone; weeks begin on Monday."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


class Rung(StrEnum):
    """How service degrades, mildest first (P12)."""

    ALERT = "alert"
    THROTTLE = "throttle"
    LOWER_TIER = "lower_tier"
    FEWER_TOKENS = "fewer_tokens"
    CACHED_ONLY = "cached_only"
    PARK = "park"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class LadderStep:
    """A rung, and from which part of the hard limit on it holds, in per cent of what was spent."""

    at_pct: float
    rung: Rung


@dataclass(frozen=True, slots=True)
class Budget:
    """Money a tenant may spend in each period; nano-dollars, None for no limit.

    It covers calls of an `agent`, a `lane`, a `task_type`, an API `key`, where None means any. Of the hard limit
    `interactive_share` is kept for the interactive lane. What comes when it is spent is `on_hard`: park or refuse.
    `forced` are rungs an operator forced, `lifted` those that he lifted.
    """

    id: int
    tenant: str
    period: Period
    timezone: str = "UTC"
    hard_nano: int | None = None
    soft_nano: int | None = None
    agent: str | None = None
    lane: str | None = None
    task_type: str | None = None
    key: str | None = None
    on_hard: Rung = Rung.PARK
    ladder: tuple[LadderStep, ...] = ()
    interactive_share: float = 0.0
    forced: frozenset[Rung] = frozenset()
    lifted: frozenset[Rung] = frozenset()

    @property
    def has_rungs(self) -> bool:
        """Whether it may stand on a rung before its hard limit."""
        return bool(self.ladder or self.forced or self.soft_nano is not None)

    def covers(self, caller: Caller) -> bool:
        """Whether a caller's calls are paid from it."""
        return (
            caller.tenant == self.tenant
            and self.agent in (None, caller.agent)
            and self.lane in (None, caller.lane)
            and self.task_type in (None, caller.task_type)
            and self.key in (None, caller.key_id)
        )


@dataclass(frozen=True, slots=True)
class AccountState:
    """How the present period of a budget stands: when it `ends` (epoch seconds, None: never), and what is spent.

    Of the money nothing is left to `all` or, where the interactive lane still has its share, to the `others`.
    """

    ends: float | None
    spent_nano: int
    exhausted: str | None = None


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Why no money is to be had: the budget, when it begins anew (epoch seconds, None: never), and what comes of it."""

    budget: int
    until: float | None
    parks: bool


class Stood(NamedTuple):
    """A rung that a call stood on, and the budget whose rung it was."""

    rung: Rung
    budget: int
