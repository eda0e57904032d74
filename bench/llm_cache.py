"""What the exact cache costs a call: the fingerprint of a prompt, and a hit in memory. In process, without a database.

`python bench/llm_cache.py` prints microseconds, the best of several rounds.
"""

import asyncio
import json
import string
import timeit
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import msgspec

from tollway.domain.clock import AnchoredClock
from tollway.domain.llm import Caller, Completion, LlmRequest, Sent, Usage
from tollway.hotstate.answers import PostgresAnswers
from tollway.llm.cache.answers import Kept
from tollway.llm.cache.exact import ExactCache
from tollway.llm.cache.fingerprint import fingerprint
from tollway.llm.cache.memory import Memory
from tollway.llm.cache.shared import SharedAnswers
from tollway.llm.calls import CallResult
from tollway.record.database import Database, DatabaseOptions

NUMBER, ROUNDS = 5_000, 9
CALLER = Caller("acme", "standard", "triage", "triage@1")
SIZES = (1_000, 10_000)


def best_us(work: Callable[[], object]) -> float:
    """Microseconds a call, the best of ROUNDS."""
    return min(timeit.repeat(work, number=NUMBER, repeat=ROUNDS)) / NUMBER * 1e6


def prompt(size: int) -> LlmRequest:
    """A request whose messages hold so many characters."""
    system, rest = "Classify the customer's message. Answer with one word.", string.ascii_letters * (size // 52 + 1)
    messages = [{"role": "system", "content": system}, {"role": "user", "content": rest[: size - len(system)]}]
    return LlmRequest("fast", messages, 64, 0.0)


def over_the_wire(request: LlmRequest) -> LlmRequest:
    """The same request as a client sent it."""
    fields = {"model": "fast", "messages": request.messages, "max_tokens": 64, "temperature": 0.0, "stream": True}
    raw = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()}
    return replace(request, sent=Sent("openai.chat", raw))


async def main() -> None:
    """Measure and print."""
    clock = AnchoredClock()
    shared = SharedAnswers(PostgresAnswers(Database(DatabaseOptions("postgresql://never.invalid/none"), clock)), clock)
    cache = ExactCache(Kept, Memory(64 << 20), shared, clock, 3600.0)
    for size in SIZES:
        request = prompt(size)
        key = fingerprint(CALLER, request)
        answer = Completion("x" * size, (), Usage(size // 4, size // 4), "stop", "model")
        kept = Kept.of(CallResult(answer, 1_000, "route", "provider", "model", 0.5))
        cache.keep(key, CALLER, kept)
        assert cache.peek(key) == kept
        figures: dict[str, Callable[[], object]] = {
            "fingerprint": partial(fingerprint, CALLER, request),
            "over the wire": partial(fingerprint, CALLER, over_the_wire(request)),
            "hit in memory": partial(cache.peek, key),
            "its completion": partial(getattr, kept, "completion"),
        }
        told = "   ".join(f"{name} {best_us(work):6.2f} µs" for name, work in figures.items())
        print(f"{size:>6} characters   {told}")


if __name__ == "__main__":
    asyncio.run(main())
