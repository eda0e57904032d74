"""The section `[alerts]`: what is told unasked, and to whom beside the log and the tenants' own receivers."""

import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, Field

from tollway.config.forms import Number, Section, env_name
from tollway.domain.alerts import AlertKind

_WEBHOOK_URL = re.compile(r"https?://[!-~]{1,2040}")


def _webhook_url(text: str) -> str:
    if text and not _WEBHOOK_URL.fullmatch(text):
        raise ValueError("must be empty or an http:// or https:// address")
    return text


class Alerts(Section):
    """Whom the operator wants told, of what, and when a tenant's spending is told of.

    Alerts of `kinds` are posted to `webhook_url`, signed by the secret in the keeper's variable `webhook_secret_env`.
    Of a budget's hard limit `soft_pct` are told. A tenant's spending is a spike at `spike_factor` times its usual hour,
    from `spike_min_usd` on.
    """

    webhook_url: Annotated[str, AfterValidator(_webhook_url)] = Field(default="", repr=False)
    webhook_secret_env: Annotated[str, AfterValidator(env_name)] = Field(default="", repr=False)
    kinds: tuple[AlertKind, ...] = tuple(AlertKind)
    soft_pct: tuple[Annotated[float, Number, Field(gt=0, le=1000)], ...] = (50.0, 80.0, 100.0)
    spike_factor: Annotated[float, Number, Field(ge=1.5, le=1000)] = 3.0
    spike_min_usd: Annotated[Decimal, Number, Field(ge=0, le=1_000_000)] = Decimal(1)
