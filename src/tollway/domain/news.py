"""The seam over which processes tell each other that something changed.

News may be lost, so every listener also polls.
"""

from collections.abc import Callable
from typing import Protocol


class News(Protocol):
    """Coalesced, fire-and-forget messages between processes."""

    def publish(self, channel: str, message: str) -> None:
        """Tell every process; never waits, never raises."""

    def subscribe(self, channel: str, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call `callback` for every message; returns what ends the subscription."""
