"""What `PUT /v1/tenants/{id}/budgets` takes, checked whole before anything is stored; and a budget as it is shown."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tollway.domain.budgets import Budget, LadderStep, Period, Rung
from tollway.domain.errors import Problem
from tollway.domain.money import nano, usd
from tollway.ingress.bodies import decode_body
from tollway.ingress.problems import invalid, invalid_input
from tollway.record.budgets import BudgetUse
from tollway.record.run_document import rfc3339, rfc3339_epoch
from tollway.spend.burn import Forecast
from tollway.spend.ladder import rungs
from tollway.spend.zones import zone_names

BUDGETS_MAX = 1000
LADDER_STEPS_MAX = 32
USD_MAX = 1_000_000_000
PCT_MAX = 1000

Text = Annotated[str, Meta(min_length=1, max_length=255)]
Usd = Annotated[float, Meta(ge=0, le=USD_MAX)]
Errors = list[dict[str, Any]]


class LadderStepBody(msgspec.Struct, forbid_unknown_fields=True):
    """From which part of the hard limit on a rung holds."""

    at_pct: Annotated[float, Meta(gt=0, le=PCT_MAX)]
    rung: Rung


class BudgetBody(msgspec.Struct, forbid_unknown_fields=True):
    """One budget of the body of `PUT /v1/tenants/{id}/budgets`; what it does not name it covers whoever it is."""

    period: Period
    hard_usd: Usd | None = None
    soft_usd: Usd | None = None
    agent: Text | None = None
    lane: Text | None = None
    task_type: Text | None = None
    key: Text | None = None
    timezone: Text | None = None
    on_hard: Literal["park", "refuse"] = "park"
    ladder: Annotated[list[LadderStepBody], Meta(max_length=LADDER_STEPS_MAX)] = []
    interactive_share: Annotated[float, Meta(ge=0, le=1)] | None = None

    def budget(self, tenant: str) -> Budget:
        """The same as a budget, not yet on record; dollars are rounded to the nearest nano-dollar."""
        return Budget(
            id=0,
            tenant=tenant,
            period=self.period,
            timezone=self.timezone or "UTC",
            hard_nano=None if self.hard_usd is None else nano(self.hard_usd),
            soft_nano=None if self.soft_usd is None else nano(self.soft_usd),
            agent=self.agent,
            lane=self.lane,
            task_type=self.task_type,
            key=self.key,
            on_hard=Rung(self.on_hard),
            ladder=tuple(LadderStep(step.at_pct, step.rung) for step in self.ladder),
            interactive_share=self.interactive_share or 0.0,
        )


class BudgetsBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `PUT /v1/tenants/{id}/budgets`."""

    budgets: Annotated[list[BudgetBody], Meta(max_length=BUDGETS_MAX)]


_decoder = msgspec.json.Decoder(BudgetsBody)


def decode_budgets(body: bytes, depth_max: int) -> BudgetsBody:
    """The body. Raises Problem; an amount written as NaN or Infinity, which is no JSON, is named by its field."""
    try:
        return decode_body(_decoder, body, depth_max)
    except Problem as problem:
        if problem.code == "malformed_json":
            _name_endless(body)
        raise


def check_budgets(body: BudgetsBody, lanes: Sequence[str], known_key: Callable[[str], bool]) -> None:
    """Raise Problem `invalid_input` that names every field that does not fit."""
    errors: Errors = []
    seen: dict[tuple[Any, ...], int] = {}
    for place, given in enumerate(body.budgets):
        path = f"budgets.{place}"
        errors += ({"path": f"{path}.{field}", "message": said} for field, said in _faults(given, lanes, known_key))
        first = seen.setdefault(_identity(given), place)
        if first != place:
            said = f"covers the same as budgets.{first}, in the same period and time zone; give one of them"
            errors.append({"path": path, "message": said})
    if errors:
        raise invalid_input(errors)


def _faults(given: BudgetBody, lanes: Sequence[str], known_key: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    hard, soft = given.hard_usd, given.soft_usd
    if hard is None and given.ladder:
        yield "hard_usd", "is required with a ladder, whose steps are in per cent of it"
    elif hard is None and given.interactive_share:
        yield "hard_usd", "is required with an interactive_share, which is a part of it"
    elif hard is None and soft is None:
        yield "hard_usd", "is required, or soft_usd: a budget without either bounds nothing"
    elif hard is not None and soft is not None and hard < soft:
        yield "hard_usd", f"is below soft_usd ({hard} < {soft})"
    if given.timezone is not None and given.timezone not in zone_names():
        yield "timezone", f"there is no time zone {given.timezone[:64]!r}; use a name such as UTC or Europe/Berlin"
    if given.lane is not None and given.lane not in lanes:
        yield "lane", f"there is no lane {given.lane[:64]!r}; the lanes are {', '.join(lanes)}"
    for field in ("agent", "task_type"):
        text = getattr(given, field)
        if text is not None and not text.isprintable():
            yield field, "must be printable characters"
    if given.key is not None and not known_key(given.key):
        yield "key", f"the tenant has no live key with the id {given.key[:64]!r}"


def _identity(given: BudgetBody) -> tuple[Any, ...]:
    return (given.period, given.timezone or "UTC", given.agent, given.lane, given.task_type, given.key)


def _name_endless(body: bytes) -> None:
    """Raise Problem for the first number that is none, if that is all that is wrong with the JSON."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return
    for path, value in _leaves(found, ""):
        if isinstance(value, float) and not math.isfinite(value):
            raise invalid(path, "must be a finite number")


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    inner: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, dict):
        inner = iter(value.items())
    elif isinstance(value, list):
        inner = iter(enumerate(value))
    else:
        yield path, value
    for key, item in inner:
        yield from _leaves(item, f"{path}.{key}" if path else str(key))


def settings_document(budget: Budget) -> dict[str, Any]:
    """What of a budget is set: whose it is, what it covers and allows."""
    return {
        "id": str(budget.id),
        "tenant": budget.tenant,
        "period": budget.period.value,
        "timezone": budget.timezone,
        "agent": budget.agent,
        "lane": budget.lane,
        "task_type": budget.task_type,
        "key": budget.key,
        **_money("hard", budget.hard_nano),
        **_money("soft", budget.soft_nano),
        "on_hard": budget.on_hard.value,
        "ladder": [{"at_pct": step.at_pct, "rung": step.rung.value} for step in budget.ladder],
        "interactive_share": budget.interactive_share,
    }


def budget_document(budget: Budget, use: BudgetUse, ahead: Forecast | None) -> dict[str, Any]:
    """A budget as it is shown: its settings, and how it stands in its present period; `ahead` None: not known."""
    hard = budget.hard_nano
    standing = rungs(budget, use.spent_nano)
    left = None if hard is None else max(0, hard - use.spent_nano - use.reserved_nano)
    return {
        **settings_document(budget),
        "forced": sorted(rung.value for rung in budget.forced),
        "lifted": sorted(rung.value for rung in budget.lifted),
        "begins_at": None if budget.period is Period.TOTAL or use.begins is None else rfc3339(use.begins),
        "ends_at": None if use.ends is None else rfc3339(use.ends),
        **_money("spent", use.spent_nano),
        **_money("reserved", use.reserved_nano),
        **_money("left", left),
        "pct": None if hard is None else _pct(use.spent_nano, hard),
        "exhausted": use.exhausted_at is not None,
        "rungs": [rung.value for rung in Rung if rung in standing],
        **_money("burn", None if ahead is None else ahead.nano_per_hour, "_per_hour"),
        "exhausts_at": None if ahead is None or ahead.exhausts_at is None else rfc3339_epoch(ahead.exhausts_at),
    }


def _money(name: str, amount: int | None, of: str = "") -> dict[str, Any]:
    return {f"{name}_usd{of}": None if amount is None else usd(amount), f"{name}_nano{of}": amount}


def _pct(spent: int, hard: int) -> float:
    return round(100 * spent / hard, 3) if hard else 100.0
