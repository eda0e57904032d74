"""A run's events as server-sent events: those on record, then those to come, tokens between them, to the final event.

Nothing is gathered ahead of the client: the next page is read when the last one is written, so a slow reader costs its
own connection alone. A client that comes back says `Last-Event-ID` and misses nothing but tokens.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import msgspec

from tollway.domain.errors import DatabaseUnavailable
from tollway.domain.news import News
from tollway.domain.words import FINAL_EVENTS
from tollway.hotstate.run_news import RunListener, RunNews
from tollway.record.event_document import event_json
from tollway.record.reads import EVENTS_PAGE, RunReads, StoredEvent
from tollway.record.run_document import run_is_final

_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Seconds: between reads without news, between comments that keep the line open, between calls for tokens."""

    poll_s: float = 1.0
    heartbeat_s: float = 15.0
    watch_s: float = 20.0
    retry_ms: int = 1000


class EventStreams:
    """Makes event streams of runs."""

    def __init__(self, reads: RunReads, run_news: RunNews, news: News, options: StreamOptions | None = None) -> None:
        self._reads = reads
        self._run_news = run_news
        self._news = news
        self._options = options or StreamOptions()
        self._stopping = False

    def stop(self) -> None:
        """End every stream at its next turn; clients resume elsewhere."""
        self._stopping = True
        self._run_news.wake_all()

    async def follow(self, run_id: UUID, after_seq: int = 0) -> AsyncIterator[bytes]:
        """Frames of a run's events beyond `after_seq`. It ends after the final event, or when there is none to come."""
        options = self._options
        yield b"retry: %d\n\n" % options.retry_ms
        with self._run_news.listen(str(run_id), with_tokens=True) as listener:
            state = _Stream(run_id, after_seq, self._news, options)
            while not self._stopping:
                state.watch()
                try:
                    events = await self._reads.events(run_id, state.seq)
                    over = not events and await self._is_over(state)
                except DatabaseUnavailable:
                    events, over = [], False
                for frame in state.frames(listener, events):
                    yield frame
                if over or state.ended:
                    return
                if len(events) < EVENTS_PAGE and not state.look_again:
                    await listener.wait(options.poll_s)

    async def _is_over(self, state: "_Stream") -> bool:
        """Whether nothing can follow: only asked until the first event, for a client that has seen the last one.

        The run may have ended between the two reads, so its events are read once more before it is believed.
        """
        if state.moved:
            return False
        if state.look_again:
            return True
        row = await self._reads.run(state.run_id)
        state.look_again = row is None or run_is_final(row)
        return False


class _Stream:
    """Where one stream stands."""

    def __init__(self, run_id: UUID, seq: int, news: News, options: StreamOptions) -> None:
        self.run_id = run_id
        self.seq = seq
        self.moved = False
        self.ended = False
        self.look_again = False
        self._news = news
        self._options = options
        self._watched_at = float("-inf")
        self._wrote_at = time.monotonic()

    def watch(self) -> None:
        """Tell the workers from time to time that somebody reads this run's tokens."""
        now = time.monotonic()
        if now - self._watched_at >= self._options.watch_s:
            self._watched_at = now
            self._news.publish("watch", str(self.run_id))

    def frames(self, listener: RunListener, events: list[StoredEvent]) -> list[bytes]:
        """What to write now: tokens, then events, or a comment when the line was silent for long."""
        frames = []
        tokens = listener.take_tokens()
        if tokens:
            frames.append(b'event: token\ndata: {"seq":null,"type":"token","data":{"text":%b}}\n\n' % _json(tokens))
        for event in events:
            frames.append(b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, event.type.encode(), event_json(event)))
            self.seq = event.seq
            self.moved = True
            self.look_again = False
            if event.type in FINAL_EVENTS:
                self.ended = True
                break
        now = time.monotonic()
        if not frames and now - self._wrote_at >= self._options.heartbeat_s:
            frames.append(b": still here\n\n")
        if frames:
            self._wrote_at = now
        return frames
