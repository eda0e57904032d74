"""Degrade before failing (P12): on which rungs a budget stands by what was spent of it, and what some of them do.

    alert ▸ throttle ▸ lower_tier ▸ fewer_tokens ▸ cached_only ▸ park ▸ refuse

Pure: what was spent and when the period ends are arguments.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tollway.domain.budgets import Budget, Exhausted, Period, Rung
from tollway.spend.budgets import SOUND, Pace, Standing

FEWER_TOKENS_MIN = 16
_DAY_S = 86_400.0
_LASTS_S = {
    Period.DAY: _DAY_S,
    Period.WEEK: 7 * _DAY_S,
    Period.MONTH: 30 * _DAY_S,
    Period.TOTAL: 30 * _DAY_S,
}
"""Over how long money is spread where no end of the period says it."""


@dataclass(frozen=True, slots=True)
class Account:
    """A budget in its present period: what was spent, when it ends (epoch seconds, None: never), who spends of it."""

    budget: Budget
    spent_nano: int
    ends: float | None = None
    sharers: int = 1


def rungs(budget: Budget, spent_nano: int) -> frozenset[Rung]:
    """The rungs a budget stands on: those of its ladder it has come to, `on_hard` once its hard limit is spent.

    A soft limit that is reached is an alert. Rungs an operator forced are there too, those he lifted are not. The hard
    limit itself holds whatever is lifted.
    """
    hard, soft = budget.hard_nano, budget.soft_nano
    found = set(budget.forced)
    if soft is not None and spent_nano >= soft:
        found.add(Rung.ALERT)
    if hard is not None:
        found.update(step.rung for step in budget.ladder if spent_nano * 100 >= step.at_pct * hard)
        if spent_nano >= hard:
            found.add(budget.on_hard)
    return frozenset(found - budget.lifted)


def standing_of(accounts: Iterable[Account], now: float) -> Standing:
    """The rungs of all budgets that cover a caller, together; `now` is in epoch seconds."""
    by: dict[Rung, Exhausted] = {}
    paces: list[Pace] = []
    for account in accounts:
        for rung in rungs(account.budget, account.spent_nano):
            by[rung] = _later(by.get(rung), _exhausted(account, rung))
            if rung is Rung.THROTTLE and (pace := pace_of(account, now)) is not None:
                paces.append(pace)
    return Standing(frozenset(by), by, tuple(paces)) if by else SOUND


def pace_of(account: Account, now: float) -> Pace | None:
    """How a throttled budget's money is made to last; None for one without a limit.

    It is spread over the rest of the period, that of a total budget over 30 days from now. A budget whose soft limit is
    all it has, and is past it, goes on at the pace at which that limit would last a whole period.
    """
    budget = account.budget
    limit = budget.soft_nano if budget.hard_nano is None else budget.hard_nano
    if limit is None:
        return None
    left_nano, spread_s = limit - account.spent_nano, _LASTS_S[budget.period]
    if left_nano <= 0 and budget.hard_nano is None:
        left_nano = limit
    elif account.ends is not None:
        spread_s = max(1.0, account.ends - now)
    return Pace(budget.id, max(0, left_nano), spread_s, max(1, account.sharers))


def fewer(max_tokens: int, share: float) -> int:
    """The bound of output on the rung `fewer_tokens`: a share of what was asked for, but not below FEWER_TOKENS_MIN."""
    return min(max_tokens, max(FEWER_TOKENS_MIN, int(max_tokens * share)))


def lower(tier: str, costs_nano: Mapping[str, int], configured: Mapping[str, str]) -> str | None:
    """The tier below one: the configured one, else the dearest of those that are cheaper; None below the cheapest.

    `costs_nano` is what the same call costs in each tier. Of tiers that cost the same the first is taken.
    """
    said = configured.get(tier)
    if said is not None or tier not in costs_nano:
        return said
    cheaper = [other for other, cost in costs_nano.items() if cost < costs_nano[tier]]
    return max(cheaper, key=costs_nano.__getitem__, default=None)


def _exhausted(account: Account, rung: Rung) -> Exhausted:
    budget = account.budget
    last = rung if rung in (Rung.PARK, Rung.REFUSE) else budget.on_hard
    return Exhausted(budget.id, account.ends, last is Rung.PARK)


def _later(one: Exhausted | None, other: Exhausted) -> Exhausted:
    """The one that begins anew last: until then the other does not help."""
    if one is None or other.until is None:
        return other
    return one if one.until is None or one.until >= other.until else other
