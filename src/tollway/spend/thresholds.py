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
PROJECTED_OVER = 0.9
ENDLESS_HORIZON_S = 86_400.0
SOFT = "soft"


def budget_alerts(
    spending: PeriodSpend, burn: Burn | None, percents: Collection[float], open_keys: Collection[str]
) -> list[Alert]:
    """Every alert that holds of a period. Of passed thresholds below one that is open already, none is named.

    Whoever tells them tells each key once, and takes for over what is no longer among them.
    """
    return [
        *_thresholds(spending, percents, open_keys),
        *_soft(spending),
        *_gone(spending),
        *(() if burn is None else _projected(spending, burn, open_keys)),
    ]


def _thresholds(spending: PeriodSpend, percents: Collection[float], open_keys: Collection[str]) -> Iterator[Alert]:
    hard = spending.hard_nano
    if hard is None:
        return
    passed = [pct for pct in percents if spending.spent_nano * 100 >= pct * hard or (spending.exhausted and pct <= 100)]
    for pct in passed:
        key = _key(AlertKind.BUDGET_SOFT, spending, f"{pct:g}")
        if pct == max(passed) or key in open_keys:
            yield _alert(AlertKind.BUDGET_SOFT, spending, f"{pct:g}", {"at_pct": pct})


def _soft(spending: PeriodSpend) -> Iterator[Alert]:
    soft = spending.soft_nano
    if soft is not None and spending.spent_nano >= soft:
        yield _alert(AlertKind.BUDGET_SOFT, spending, SOFT, _money("soft", soft))


def _gone(spending: PeriodSpend) -> Iterator[Alert]:
    if spending.hard_nano is not None and (spending.exhausted or spending.spent_nano >= spending.hard_nano):
        yield _alert(AlertKind.BUDGET_EXHAUSTED, spending)


def _projected(spending: PeriodSpend, burn: Burn, open_keys: Collection[str]) -> Iterator[Alert]:
    """The money ends before the period does, for one without end within a day, by enough that is known."""
    hard = spending.hard_nano
    if hard is None:
        return
    told = _key(AlertKind.BUDGET_PROJECTED, spending) in open_keys
    if spending.exhausted or spending.spent_nano >= hard:
        if told:  # it came true, which is no end of it
            yield _alert(AlertKind.BUDGET_PROJECTED, spending)
        return
    until = burn.at + ENDLESS_HORIZON_S if spending.ends_at is None else spending.ends_at
    projected = burn.projected_nano(until)
    known = burn.at - burn.since >= PROJECTED_AGE_S and spending.spent_nano >= PROJECTED_SHARE_MIN * hard
    if (projected > hard and known) or (told and projected >= PROJECTED_OVER * hard):
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
