"""Who waits for news of which run: one subscription a process, spread over its streams and waiting requests."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator

import msgspec

from tollway.domain.news import News

_TOKEN_CHARS_MAX = 262_144


class _TokenNews(msgspec.Struct):
    run: str
    text: str


class RunListener:
    """One waiter for one run. Tokens wait here, at most _TOKEN_CHARS_MAX of them; what is beyond is dropped."""

    def __init__(self, with_tokens: bool) -> None:
        self.with_tokens = with_tokens
        self._event = asyncio.Event()
        self._tokens: list[str] = []
        self._chars = 0

    async def wait(self, poll_s: float) -> None:
        """Return at the next news, or after about `poll_s` seconds without: news may be lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(poll_s * random.uniform(0.8, 1.2)):
                await self._event.wait()
        self._event.clear()

    def take_tokens(self) -> str:
        """The text that came since the last call."""
        text = "".join(self._tokens)
        self._tokens.clear()
        self._chars = 0
        return text

    def wake(self) -> None:
        """There is news."""
        self._event.set()

    def add_token(self, text: str) -> None:
        """Text was streamed by the run's model."""
        if self.with_tokens and self._chars < _TOKEN_CHARS_MAX:
            self._tokens.append(text)
            self._chars += len(text)
            self._event.set()


class RunNews:
    """Spreads the channels `run` and `token` over the listeners of this process."""

    def __init__(self, news: News) -> None:
        self._news = news
        self._listeners: dict[str, set[RunListener]] = {}
        self._unsubscribe: list[Callable[[], None]] = []
        self._decode_token = msgspec.json.Decoder(_TokenNews).decode

    def start(self) -> None:
        """Subscribe; a second start is nothing."""
        if not self._unsubscribe:
            self._unsubscribe = [
                self._news.subscribe("run", self._on_run),
                self._news.subscribe("token", self._on_token),
            ]

    def stop(self) -> None:
        """End the subscription and wake every listener."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._unsubscribe = []
        self.wake_all()

    def wake_all(self) -> None:
        """Let every listener look around, for instance because the process is stopping."""
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.wake()

    @contextlib.contextmanager
    def listen(self, run: str, *, with_tokens: bool = False) -> Iterator[RunListener]:
        """Hear of one run (its id as text) until the context ends."""
        listener = RunListener(with_tokens)
        self._listeners.setdefault(run, set()).add(listener)
        try:
            yield listener
        finally:
            mine = self._listeners.get(run, set())
            mine.discard(listener)
            if not mine:
                self._listeners.pop(run, None)

    def _on_run(self, run: str) -> None:
        for listener in self._listeners.get(run, ()):
            listener.wake()

    def _on_token(self, message: str) -> None:
        if not self._listeners:
            return
        try:
            token = self._decode_token(message)
        except msgspec.DecodeError:
            return
        for listener in self._listeners.get(token.run, ()):
            listener.add_token(token.text)
