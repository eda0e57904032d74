"""The breakers of dependencies as all processes see them together."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

_WORST_FIRST = ("open", "half_open", "ramping", "closed")


class _Facts(msgspec.Struct):
    """The form of what a process tells of a dependency; times are epoch seconds."""

    state: str
    since: float | None = None
    failure_share: float = 0.0
    calls: int = 0
    reason: str = ""
    opens_at: float | None = None


def shown_dependencies(told: Iterable[object]) -> list[dict[str, Any]]:
    """Every dependency that some process called lately or found in trouble; `told` are the processes' facts.

    The state is the worst of them. What another version of the code tells in a form of its own is left out.
    """
    found: dict[str, list[_Facts]] = {}
    for one in told:
        for name, facts in one.items() if isinstance(one, Mapping) else ():
            read = _readable(facts)
            if read is not None:
                found.setdefault(str(name), []).append(read)
    return [_shown(name, found[name]) for name in sorted(found)]


def _readable(facts: object) -> _Facts | None:
    try:
        read = msgspec.convert(facts, _Facts)
    except msgspec.ValidationError:
        return None
    return read if read.state in _WORST_FIRST else None


def _shown(name: str, facts: list[_Facts]) -> dict[str, Any]:
    worst = min(facts, key=lambda one: _WORST_FIRST.index(one.state))
    calls = sum(one.calls for one in facts)
    failed = sum(one.failure_share * one.calls for one in facts)
    return {
        "name": name,
        "breaker": {
            "state": worst.state,
            "since": worst.since,
            "opens_at": worst.opens_at,
            "reason": worst.reason if worst.state != "closed" else "",
        },
        "calls": calls,
        "failure_share": round(failed / calls, 4) if calls else 0.0,
        "processes": len(facts),
    }
