"""Agents as the API knows them: the version new runs get, and its input schema compiled once."""

import logging
from typing import Any

import jsonschema_rs

from tollway.domain.errors import Problem
from tollway.ingress.problems import invalid_input
from tollway.record.agents import AgentRecord
from tollway.record.settings_sync import SettingsSnapshot

_log = logging.getLogger(__name__)
_ERRORS_MAX = 20
_MESSAGE_CHARS_MAX = 300


class CataloguedAgent:
    """An agent's published version and the check of its input."""

    __slots__ = ("_validator", "record")

    def __init__(self, record: AgentRecord) -> None:
        self.record = record
        self._validator = _compiled(record)

    def check(self, value: Any) -> None:
        """Raise Problem `invalid_input` when the input does not fit the agent's schema."""
        validator = self._validator
        if validator is None or validator.is_valid(value):
            return
        errors = []
        for error in validator.iter_errors(value):
            path = ".".join(["input", *(str(part) for part in error.instance_path)])
            errors.append({"path": path, "message": error.message[:_MESSAGE_CHARS_MAX]})
            if len(errors) == _ERRORS_MAX:
                break
        raise invalid_input(errors or [{"path": "input", "message": "does not fit the agent's input schema"}])


class Catalogue:
    """The agents new runs may name. Schemas are compiled again only when they changed."""

    def __init__(self) -> None:
        self._current: dict[str, CataloguedAgent] = {}

    def take(self, snapshot: SettingsSnapshot) -> None:
        """Replace what is known by what was read; the version published last is current."""
        current: dict[str, CataloguedAgent] = {}
        for record in snapshot.agents:
            known = self._current.get(record.name)
            current[record.name] = known if known and known.record == record else CataloguedAgent(record)
        self._current = current

    def find(self, name: str) -> CataloguedAgent:
        """The agent. Raises Problem `unknown_agent`."""
        agent = self._current.get(name)
        if agent is None:
            names = ", ".join(sorted(self._current)[:20]) or "none yet: no worker has published any"
            raise Problem("unknown_agent", f"No worker has published an agent {name[:100]!r}; known are: {names}.")
        return agent

    def names(self) -> set[str]:
        """Every name."""
        return set(self._current)


def _compiled(record: AgentRecord) -> Any:
    if not record.input_schema:
        return None
    try:
        return jsonschema_rs.validator_for(record.input_schema, retriever=_refuse)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        _log.warning("agent %s %s: its input schema cannot be used: %s", record.name, record.version, str(error)[:300])
        return None


def _refuse(uri: str) -> Any:
    raise ValueError(f"schemas may not refer to other documents ({uri})")
