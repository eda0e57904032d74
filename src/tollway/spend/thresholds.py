"""Which alerts a period of a budget gives cause for. Pure: the time is an argument, epoch seconds."""

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from tollway.domain import money
from tollway.domain.alerts import Alert, AlertKind
from tollway.record.run_document import rfc3339_epoch
from tollway.record.spending import PeriodSpend
from tollway.spend.burn import Burn

PROJECTED_AGE_S = 900.0
PROJECTED_SHARE_MIN = 0.05
HELD_SHARE = 0.9
"""What was told holds down to this part of its level: money may come back, as when a call cost less than was feared."""

ENDLESS_HORIZON_S = 86_400.0
SOFT = "soft"
ALL, OTHERS = "all", "others"


def budget_alerts(
    spending: PeriodSpend, burn: Burn | None, percents: Collection[float], open_keys: Collection[str]
) -> list[Alert]:
    """Every alert that holds of a period; of thresholds that are not open, the highest, if it is above those that are.

    Whoever tells them tells each key once, and takes for over what is no longer among them.
    """
    return [
        *_thresholds(spending, percents, open_keys),
        *_soft(spending, open_keys),
        *_gone(spending, open_keys),
        *(() if burn is None else _projected(spending, burn, open_keys)),
    ]


def _thresholds(spending: PeriodSpend, percents: Collection[float], open_keys: Collection[str]) -> Iterator[Alert]:
    hard = spending.hard_nano
    if hard is None:
        return
    spent = hard if spending.exhausted == ALL else spending.spent_nano
    passed = {pct for pct in percents if spent * 100 >= pct * hard}
    told = {pct for pct in percents if _key(AlertKind.BUDGET_SOFT, spending, f"{pct:g}") in open_keys}
    held = {pct for pct in told if spent * 100 >= HELD_SHARE * pct * hard}
    for pct in sorted(held | {max(held | passed)} if held | passed else ()):
        yield _alert(AlertKind.BUDGET_SOFT, spending, f"{pct:g}", {"at_pct": pct})


def _soft(spending: PeriodSpend, open_keys: Collection[str]) -> Iterator[Alert]:
    soft = spending.soft_nano
    if soft is not None:
        told = _key(AlertKind.BUDGET_SOFT, spending, SOFT) in open_keys
        if spending.spent_nano >= (HELD_SHARE * soft if told else soft):
            yield _alert(AlertKind.BUDGET_SOFT, spending, SOFT, _money("soft", soft))


def _gone(spending: PeriodSpend, open_keys: Collection[str]) -> Iterator[Alert]:
    hard = spending.hard_nano
    if hard is not None:
        kind = AlertKind.BUDGET_EXHAUSTED
        level = HELD_SHARE * hard if _key(kind, spending) in open_keys else hard
        if spending.exhausted == ALL or spending.spent_nano >= level:
            yield _alert(kind, spending, more={"lanes": ALL})
        if spending.exhausted == OTHERS or (spending.exhausted == ALL and _key(kind, spending, OTHERS) in open_keys):
            yield _alert(kind, spending, OTHERS, {"lanes": OTHERS})


def _projected(spending: PeriodSpend, burn: Burn, open_keys: Collection[str]) -> Iterator[Alert]:
    """The money ends before the period does, for one without end within a day, by enough that is known."""
    hard = spending.hard_nano
    if hard is None:
        return
    told = _key(AlertKind.BUDGET_PROJECTED, spending) in open_keys
    if spending.exhausted == ALL or spending.spent_nano >= hard:
        if told:  # it came true, which is no end of it
            yield _alert(AlertKind.BUDGET_PROJECTED, spending)
        return
    until = burn.at + ENDLESS_HORIZON_S if spending.ends_at is None else spending.ends_at
    projected = burn.projected_nano(until)
    known = burn.at - burn.since >= PROJECTED_AGE_S and spending.spent_nano >= PROJECTED_SHARE_MIN * hard
    if told:  # what it says was said; to work out anew when the money ends takes a tenth of a millisecond
        if projected >= HELD_SHARE * hard:
            yield _alert(AlertKind.BUDGET_PROJECTED, spending)
    elif projected > hard and known:
        rate = {
            "burn_usd_per_hour": money.usd(round(burn.recent * 3600)),
            "exhausts_at": _moment(burn.exhausts_at(hard)),
        }
        yield _alert(AlertKind.BUDGET_PROJECTED, spending, more={**_money("projected", projected), **rate})


def _key(kind: AlertKind, spending: PeriodSpend, mark: str = "") -> str:
    return f"{kind}/{spending.account}/{mark}" if mark else f"{kind}/{spending.account}"


def _alert(
    kind: AlertKind, spending: PeriodSpend, mark: str = "", more: Mapping[str, object] = MappingProxyType({})
) -> Alert:
    data: dict[str, object] = {
        "budget": str(spending.budget),
        "period": spending.period,
        **_money("spent", spending.spent_nano),
    }
    if spending.hard_nano is not None:
        data |= _money("hard", spending.hard_nano)
    data |= {"ends_at": _moment(spending.ends_at), **more}
    return Alert(kind, spending.tenant, str(spending.budget), _key(kind, spending, mark), data)


def _money(name: str, nano: int) -> dict[str, object]:
    return {f"{name}_usd": money.usd(nano), f"{name}_nano": nano}


def _moment(at: float | None) -> str | None:
    return None if at is None else rfc3339_epoch(at)
