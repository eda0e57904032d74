"""Tollway runs AI agents the way a payment system runs transactions.

What agents and their callers need, by these names alone. Each is imported when it is first asked for, so that a client
does not load the runtime, nor an agent the HTTP client.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tollway.client import ApiError, Client, ClientOptions, RunEvent, RunFailed, RunView, StepView, Unreachable
    from tollway.domain.errors import LlmError, Reject, Retry, StepUnknown, TollwayError
    from tollway.runtime.registry import agent
    from tollway.runtime.run import Budget, Reply, Run

__all__ = [
    "ApiError",
    "Budget",
    "Client",
    "ClientOptions",
    "LlmError",
    "Reject",
    "Reply",
    "Retry",
    "Run",
    "RunEvent",
    "RunFailed",
    "RunView",
    "StepUnknown",
    "StepView",
    "TollwayError",
    "Unreachable",
    "agent",
]

_HOMES = {
    "tollway.client": (
        "ApiError",
        "Client",
        "ClientOptions",
        "RunEvent",
        "RunFailed",
        "RunView",
        "StepView",
        "Unreachable",
    ),
    "tollway.domain.errors": ("LlmError", "Reject", "Retry", "StepUnknown", "TollwayError"),
    "tollway.runtime.registry": ("agent",),
    "tollway.runtime.run": ("Budget", "Reply", "Run"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
