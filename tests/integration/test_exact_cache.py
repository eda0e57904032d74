"""The exact cache over the real shared tier: between processes, within its patience, and on real messages."""

import asyncio
import csv
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from runtime_kit import make_cache, until_true
from tollway.domain.clock import AnchoredClock
from tollway.domain.llm import Caller, Completion, LlmRequest, Usage
from tollway.llm.cache.answers import Kept
from tollway.llm.cache.exact import FLIGHT, HIT, MISS, SHARED_HIT, ExactCache
from tollway.llm.cache.fingerprint import fingerprint
from tollway.llm.cache.shared import PATIENCE_S
from tollway.llm.calls import CallResult
from tollway.record.database import Database, DatabaseOptions

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "banking77_sample.csv"
CALLER = Caller("acme", "standard", "triage", "triage@1")
REPEATED = 0.4


def asked(text: str) -> LlmRequest:
    """A message to be classified."""
    return LlmRequest("fast", [{"role": "system", "content": "Classify."}, {"role": "user", "content": text}], 20)


def answered(text: str, stop_reason: str = "stop") -> Kept:
    """An answer."""
    completion = Completion(text, (), Usage(10, 5), stop_reason, "model")
    return Kept.of(CallResult(completion, 640, "route", "provider", "model", 0.1))


@pytest.fixture
async def lazy(database_url: str) -> AsyncIterator[Database]:
    """The shared tier's connections."""
    database = Database(DatabaseOptions(database_url, durable=False), AnchoredClock())
    await database.start()
    yield database
    await database.stop()


async def shared_holds(admin: asyncpg.Connection, count: int) -> None:
    """Return once so many answers are in the shared tier."""
    await until_true(lambda: admin.fetchval("select count(*) = $1 from answer", count))


async def test_an_answer_is_kept_for_every_process(lazy: Database, admin: asyncpg.Connection) -> None:
    """What one process kept another finds, once, and then has in memory; the row says whose it is."""
    one, other = make_cache(Kept, lazy), make_cache(Kept, lazy)
    key = fingerprint(CALLER, asked("Hi"))
    assert one.peek(key) is None
    assert await one.find(key) is None
    one.keep(key, CALLER, answered("greeting"))
    assert one.peek(key) == answered("greeting")
    await shared_holds(admin, 1)
    assert other.peek(key) is None
    assert await other.find(key) == answered("greeting")
    assert other.peek(key) == answered("greeting")
    row = await admin.fetchrow("select tenant, agent, expires_at - now() as rest from answer")
    assert (row["tenant"], row["agent"]) == ("acme", "triage@1")
    assert 3500 < row["rest"].total_seconds() <= 3600


async def test_an_answer_ends_in_both_tiers(lazy: Database, admin: asyncpg.Connection) -> None:
    """An answer past its time to live is given neither from memory nor from the shared tier."""
    cache, other = make_cache(Kept, lazy, ttl_s=0.05), make_cache(Kept, lazy)
    cache.keep(b"k" * 32, CALLER, answered("x"))
    cache.keep(b"l" * 32, CALLER, answered("y"), ttl_s=60.0)
    await shared_holds(admin, 2)
    await until_true(lambda: admin.fetchval("select bool_or(expires_at <= clock_timestamp()) from answer"))
    assert cache.peek(b"k" * 32) is None
    assert await other.find(b"k" * 32) is None
    assert await other.find(b"l" * 32) == answered("y")


async def test_what_is_not_good_or_not_readable_is_not_given(lazy: Database, admin: asyncpg.Connection) -> None:
    """A filtered answer is not kept at all; a row that this version cannot read is a miss."""
    cache = make_cache(Kept, lazy)
    cache.keep(b"k" * 32, CALLER, answered("x", "content_filter"))
    assert cache.peek(b"k" * 32) is None
    await admin.execute("insert into answer values ($1, 'acme', '', '\\x01', now() + interval '1 hour')", b"k" * 32)
    assert await cache.find(b"k" * 32) is None
    assert cache.peek(b"k" * 32) is None


async def test_a_slow_shared_tier_is_a_miss(lazy: Database, admin: asyncpg.Connection) -> None:
    """A look-up that does not come back soon is a miss, and for a while nobody else waits; then it is asked again."""
    cache = make_cache(Kept, lazy)
    cache.keep(b"k" * 32, CALLER, answered("x"))
    await shared_holds(admin, 1)
    other, loop = make_cache(Kept, lazy), asyncio.get_running_loop()
    async with admin.transaction():
        await admin.execute("lock table answer in access exclusive mode")
        assert await asyncio.gather(*(other.find(b"k" * 32) for _ in range(5))) == [None] * 5
        began = loop.time()
        assert [await other.find(b"k" * 32) for _ in range(20)] == [None] * 20
        assert loop.time() - began < 20 * PATIENCE_S

    async def found() -> bool:
        return await other.find(b"k" * 32) == answered("x")

    await until_true(found)


async def test_without_a_shared_tier_the_memory_goes_on(lazy: Database) -> None:
    """With the database gone a call is made, kept in memory and given again; no error reaches the caller."""
    cache = make_cache(Kept, lazy)
    await lazy.stop()
    made = Counter[str]()

    async def make() -> Kept:
        made["calls"] += 1
        return answered("x")

    found = [await cache.through(b"k" * 32, CALLER, make) for _ in range(3)]
    assert [one.result for one in found] == [MISS, HIT, HIT]
    assert made["calls"] == 1


async def test_a_failure_is_kept_from_nobody_and_for_nobody(lazy: Database) -> None:
    """What fails is raised to who made it, and made again for the next; nothing of it is kept."""
    cache = make_cache(Kept, lazy)

    async def fail() -> Kept:
        raise RuntimeError("no")

    async def make() -> Kept:
        return answered("x")

    with pytest.raises(RuntimeError):
        await cache.through(b"k" * 32, CALLER, fail)
    assert (await cache.through(b"k" * 32, CALLER, make)).result == MISS


def stream_of_messages(seed: int) -> tuple[list[str], int]:
    """1,000 customers' messages of which 40 % were asked before, in an order by chance; and how many are new."""
    chance = random.Random(seed)
    with SAMPLE.open(newline="") as file:
        texts = list(dict.fromkeys(row["text"] for row in csv.DictReader(file)))
    fresh = texts[:600]
    stream = fresh + chance.choices(fresh, k=round(len(fresh) * REPEATED / (1 - REPEATED)))
    chance.shuffle(stream)
    return stream, len(fresh)


class Provider:
    """Answers after a moment, and counts what was asked of it."""

    def __init__(self) -> None:
        self.calls = 0

    async def answer(self, text: str) -> Kept:
        """One paid call."""
        self.calls += 1
        await asyncio.sleep(0.01)
        return answered(text[::-1])


async def classify(cache: ExactCache[Kept], provider: Provider, texts: list[str], callers: int) -> Counter[str]:
    """Ask for each text, so many at a time; where the answers came from."""
    results: Counter[str] = Counter()
    left = iter(texts)

    async def caller() -> None:
        for text in left:
            found = await cache.through(
                fingerprint(CALLER, asked(text)), CALLER, lambda text=text: provider.answer(text)
            )
            assert found.value.text == text[::-1]
            results[found.result] += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    return results


async def test_of_banking_messages_all_that_repeat_are_hits(lazy: Database) -> None:
    """Of 1,000 messages 40 % repeat: asked 64 at a time, hits are within a point of that, and calls fall by as much."""
    stream, fresh = stream_of_messages(7)
    provider = Provider()
    results = await classify(make_cache(Kept, lazy), provider, stream, 64)
    assert sum(results.values()) == len(stream) == 1000
    share = 1 - results[MISS] / len(stream)
    assert abs(share - REPEATED) <= 0.01
    assert provider.calls == results[MISS] == fresh
    assert results[HIT] > 0
    assert results[FLIGHT] > 0


async def test_what_one_process_asked_another_does_not(lazy: Database, admin: asyncpg.Connection) -> None:
    """A second process that is sent the same messages later pays for none of them."""
    stream, fresh = stream_of_messages(8)
    provider = Provider()
    await classify(make_cache(Kept, lazy), provider, stream, 64)
    await shared_holds(admin, fresh)
    results = await classify(make_cache(Kept, lazy), provider, stream, 64)
    assert provider.calls == fresh
    assert results[SHARED_HIT] == fresh
    assert results[MISS] == 0


async def test_without_single_flight_each_is_made(lazy: Database) -> None:
    """Identical calls under way at once are each made, by single flight one is; what is over is given again in both."""
    for single_flight, calls in ((False, 5), (True, 1)):
        cache = make_cache(Kept, lazy, single_flight=single_flight)
        caller, provider = replace(CALLER, tenant=f"flights-{single_flight}"), Provider()
        key = fingerprint(caller, asked("Hi"))

        async def ask(cache: ExactCache[Kept] = cache, provider: Provider = provider, key: bytes = key) -> str:
            return (await cache.through(key, CALLER, lambda: provider.answer("Hi"))).result

        assert Counter(await asyncio.gather(*(ask() for _ in range(5))))[MISS] == provider.calls == calls
        assert await ask() == HIT


async def test_lanes_do_not_wait_for_each_other(lazy: Database) -> None:
    """P6: an interactive call does not wait for the same call of batch work; of one lane, one is made for all."""
    cache = make_cache(Kept, lazy)
    made: list[str] = []
    slow = asyncio.Event()

    def making(lane: str) -> Callable[[], Awaitable[Kept]]:
        async def make() -> Kept:
            made.append(lane)
            if lane == "batch":
                await slow.wait()
            return answered(lane)

        return make

    async def ask(lane: str) -> str:
        return (await cache.through(b"k" * 32, replace(CALLER, lane=lane), making(lane))).value.text

    waiting = [asyncio.ensure_future(ask("batch")) for _ in range(2)]
    async with asyncio.timeout(10):
        while not made:
            await asyncio.sleep(0.001)
        assert await ask("interactive") == "interactive"
    slow.set()
    assert await asyncio.gather(*waiting) == ["batch", "batch"]
    assert made == ["batch", "interactive"]
