"""Which classes may be claimed now: a run that could not be served stays in the queue, at no cost (P8)."""

from typing import Protocol


class Doors(Protocol):
    """What a claimer asks before it claims."""

    def room(self, lane: str, agent: str) -> int | None:
        """How many more runs of a class may start in this process now; None: any number."""


class OpenDoors:
    """Implements `Doors` where nothing is ever held."""

    def room(self, lane: str, agent: str) -> int | None:
        """Any number."""
        return None
