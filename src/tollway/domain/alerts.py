"""Alerts: what an operator or a tenant is told of without asking, once, and until it is over."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class AlertKind(StrEnum):
    """What an alert may be about."""

    BUDGET_SOFT = "budget_soft"
    BUDGET_EXHAUSTED = "budget_exhausted"
    BUDGET_PROJECTED = "budget_projected"
    SPEND_SPIKE = "spend_spike"
    FALLBACK_LASTING = "fallback_lasting"
    RESERVATION_EXCEEDED = "reservation_exceeded"


@dataclass(frozen=True, slots=True)
class Alert:
    """What holds now. While an alert of the same `key` is open, it is not told again.

    `tenant` is None for what concerns the operator alone; `subject` is the budget's id, the tenant, the tier or the
    route; `data` is what receivers are told, JSON.
    """

    kind: AlertKind
    tenant: str | None
    subject: str
    key: str
    data: Mapping[str, Any] = field(default_factory=dict)
