"""News between processes: fire and forget, so every listener also polls; `hotstate` carries it."""

from collections.abc import Callable
from typing import Protocol


class News(Protocol):
    """Coalesced, fire-and-forget messages between processes."""

    def publish(self, channel: str, message: str) -> None:
        """Tell every process; never waits, never raises."""

    def subscribe(self, channel: str, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call `callback` for every message; returns what ends the subscription."""
