"""Tokens and news of events for whoever watches a run: told to the API processes, dropped when nobody watches."""

import time
from uuid import UUID

import msgspec

from tollway.hotstate.broadcast import Broadcast

WATCH_TTL_S = 60.0


class WatchedTokens:
    """Knows which runs are watched just now (API processes say so on `watch`, and again while it lasts)."""

    def __init__(self, broadcast: Broadcast) -> None:
        self._broadcast = broadcast
        self._until: dict[str, float] = {}
        self._number = 0
        broadcast.subscribe("watch", self._watch)

    def token(self, run_id: str, text: str) -> None:
        """Pass on a piece of text, if somebody watches the run."""
        if self._is_watched(run_id):
            self._number += 1  # two equal pieces are two pieces
            piece = {"run": run_id, "text": text, "n": self._number}
            self._broadcast.publish("token", msgspec.json.encode(piece).decode())

    def written(self, run_id: UUID) -> None:
        """Tell whoever watches the run of its new events; who does not watch hears of its end alone."""
        if self._until and self._is_watched(str(run_id)):
            self._broadcast.publish("run", str(run_id))

    def _is_watched(self, run_id: str) -> bool:
        until = self._until.get(run_id)
        if until is None:
            return False
        if until < time.monotonic():
            del self._until[run_id]
            return False
        return True

    def _watch(self, run_id: str) -> None:
        now = time.monotonic()
        if len(self._until) > 10_000:
            self._until = {run: until for run, until in self._until.items() if until > now}
        self._until[run_id] = now + WATCH_TTL_S
