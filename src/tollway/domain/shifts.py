"""A shift: for some callers, calls of one tier are served by another."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shift:
    """Calls that ask for `from_tier` get `to_tier`; of a `tenant`, an `agent`, a `task_type`, where None means any."""

    from_tier: str
    to_tier: str
    tenant: str | None = None
    agent: str | None = None
    task_type: str | None = None

    def document(self) -> dict[str, str]:
        """As the API takes and shows it: what is not given is left out."""
        named = {"tenant": self.tenant, "agent": self.agent, "task_type": self.task_type}
        given = {name: value for name, value in named.items() if value is not None}
        return {**given, "from_tier": self.from_tier, "to_tier": self.to_tier}
