"""Filters of lists and bulk actions: the same words in a query string and in a JSON body."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tollway.domain.words import RunState
from tollway.ingress.auth import Caller
from tollway.ingress.problems import invalid
from tollway.ingress.requests import refuse_unknown
from tollway.record.dead_letters import DeadFilter
from tollway.record.reads import RunFilter

_KNOWN = "state, agent, lane, tenant, created_after, created_before, metadata.KEY"
_DEAD_KNOWN = "fingerprint, agent, lane, tenant, code"


def run_filter(given: Mapping[str, Any], caller: Caller, path: str = "") -> RunFilter:
    """The runs that are meant, within what the caller may see. Raises Problem `invalid_input`, `forbidden`."""
    values: dict[str, Any] = {}
    metadata: list[tuple[str, str]] = []
    for name, value in given.items():
        where = f"{path}{name}"
        if name == "metadata" and isinstance(value, Mapping):
            metadata.extend((key, _metadata_value(inner, f"{where}.{key}")) for key, inner in value.items())
        elif name == "metadata":
            raise invalid(where, "is asked for by its keys: metadata.KEY in a query, an object in a body")
        elif name.startswith("metadata.") and len(name) > len("metadata."):
            metadata.append((name.removeprefix("metadata."), _metadata_value(value, where)))
        elif name in ("state", "agent", "lane", "tenant"):
            values[name] = _text(value, where)
        elif name in ("created_after", "created_before"):
            values[name] = moment_of(value, where)
        else:
            refuse_unknown([where], _KNOWN)
    state = values.get("state")
    if state is not None and state not in set(RunState):
        raise invalid(f"{path}state", f"must be one of {', '.join(RunState)}")
    values["tenant"] = caller.narrowed(values.get("tenant"))
    return RunFilter(**values, metadata=tuple(metadata))


def dead_filter(given: Mapping[str, Any], caller: Caller, path: str = "") -> DeadFilter:
    """The dead letters that are meant. Raises Problem `invalid_input`, `forbidden`."""
    values: dict[str, str | None] = {}
    for name, value in given.items():
        if name not in DeadFilter.__dataclass_fields__:
            refuse_unknown([f"{path}{name}"], _DEAD_KNOWN)
        values[name] = _text(value, f"{path}{name}")
    values["tenant"] = caller.narrowed(values.get("tenant"))
    return DeadFilter(**values)


def moment_of(value: Any, path: str) -> float:
    """An RFC 3339 time as epoch seconds; without a zone it is UTC. Raises Problem `invalid_input`."""
    try:
        moment = datetime.fromisoformat(_text(value, path).replace(" ", "+"))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise invalid(path, "must be an RFC 3339 time such as 2026-01-31T12:00:00Z") from None


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 255:
        raise invalid(path, "must be a text of 1 to 255 characters")
    return value


def _metadata_value(value: Any, path: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str) or len(value) > 4096:
        raise invalid(path, "must be a text, a number or a truth value")
    return value
