"""One suite over every store of cached answers: what the cache relies on, whichever store carries it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import DatabaseUnavailable
from tollway.hotstate.answers import SWEEP_ROWS, Answer, AnswerStore, PostgresAnswers
from tollway.record.database import Database, DatabaseOptions

ROOM = 1 << 30


@pytest.fixture(params=["postgres"])
async def store(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[AnswerStore]:
    """An empty store."""
    database = Database(DatabaseOptions(database_url, durable=False), AnchoredClock())
    await database.start()
    yield {"postgres": PostgresAnswers}[request.param](database)
    await database.stop()


def key_of(number: int) -> bytes:
    """A key."""
    return number.to_bytes(32, "big")


def answer(number: int, ends_in_s: float = 60.0, value: bytes = b"v") -> Answer:
    """An answer that ends so many seconds from now."""
    return Answer(key_of(number), "acme", "triage@1", value, AnchoredClock().now() + ends_in_s)


async def test_what_is_kept_is_found(store: AnswerStore) -> None:
    """Any bytes come back under their key with their end; a key that nobody kept is not among those found."""
    whole = [answer(1, 60, bytes(range(256))), answer(2, 90, b""), answer(3, 60, b"x" * 100_000)]
    await store.keep(whole)
    found = await store.find([key_of(n) for n in (3, 2, 1, 9, 3)])
    assert {key: held.value for key, held in found.items()} == {one.key: one.value for one in whole}
    assert all(abs(found[one.key].expires_at - one.expires_at) < 0.001 for one in whole)
    assert await store.find([key_of(9)]) == {}


async def test_nothing_is_found_after_its_end(store: AnswerStore) -> None:
    """An answer past its end is not found, swept or not, and its key can be kept anew."""
    await store.keep([answer(1, -1)])
    assert await store.find([key_of(1)]) == {}
    await store.keep([answer(1, 60, b"new")])
    assert (await store.find([key_of(1)]))[key_of(1)].value == b"new"


async def test_the_last_kept_is_found(store: AnswerStore) -> None:
    """A key kept again, within one batch too, has its last answer and end."""
    await store.keep([answer(1, 60, b"one"), answer(2), answer(1, 90, b"two")])
    await store.keep([answer(2, 90, b"three")])
    found = await store.find([key_of(1), key_of(2)])
    assert [found[key_of(n)].value for n in (1, 2)] == [b"two", b"three"]


async def test_many_keep_the_same_at_once(store: AnswerStore) -> None:
    """Processes that keep the same answers in other orders at the same time do not block one another for good."""
    batches = [[answer(n % 200, 60, bytes([m])) for n in range(m, m + 200)] for m in range(8)]
    await asyncio.gather(*(store.keep(batch if m % 2 else batch[::-1]) for m, batch in enumerate(batches)))
    assert len(await store.find([key_of(n) for n in range(200)])) == 200


async def test_a_sweep_drops_what_is_over(store: AnswerStore) -> None:
    """More than one statement's worth of old answers go in one sweep, the others stay; a second sweep finds nothing."""
    await store.keep([answer(n, -1) for n in range(SWEEP_ROWS + 10)])
    await store.keep([answer(n, 60) for n in range(SWEEP_ROWS, SWEEP_ROWS + 20)])
    assert await store.sweep(ROOM) == SWEEP_ROWS
    assert len(await store.find([key_of(n) for n in range(SWEEP_ROWS + 100)])) == 20
    assert await store.sweep(ROOM) == 0


async def test_a_sweep_keeps_the_bound_and_what_ends_last(store: AnswerStore) -> None:
    """Beyond its bytes the store drops what ends soonest, large values and small, and no more than it must."""
    await store.keep([answer(n, 60 + n, b"x" * (9_800 if n % 2 else 800)) for n in range(100)])
    assert await store.sweep(300_000) > 0
    left = await store.find([key_of(n) for n in range(100)])
    kept = sorted(int.from_bytes(key, "big") for key in left)
    assert kept == list(range(100 - len(kept), 100))
    weight = sum(len(held.value) + 200 for held in left.values())
    assert 300_000 - 10_000 < weight <= 300_000


async def test_an_absent_store_says_so(database_url: str) -> None:
    """Every verb of a store out of reach raises DatabaseUnavailable."""
    store = PostgresAnswers(Database(DatabaseOptions(database_url), AnchoredClock()))
    for verb in (store.find([key_of(1)]), store.keep([answer(1)]), store.sweep(ROOM)):
        with pytest.raises(DatabaseUnavailable):
            await verb
