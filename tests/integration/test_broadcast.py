"""News over the real Postgres: joined, split, heard again after a lost connection, and silent without an address."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from runtime_kit import until, until_true
from tollway.hotstate.broadcast import PAYLOAD_BYTES_MAX, Broadcast, join


@asynccontextmanager
async def speaker(url: str) -> AsyncIterator[Broadcast]:
    """One process' end of the news, connected."""
    broadcast = Broadcast(url)
    await broadcast.start()
    await until(lambda: broadcast.connected)
    try:
        yield broadcast
    finally:
        await broadcast.stop()


def ear(broadcast: Broadcast, channel: str) -> tuple[list[str], Callable[[], None]]:
    """What is heard on a channel, and what ends the hearing."""
    heard: list[str] = []
    return heard, broadcast.subscribe(channel, heard.append)


async def listening(admin: asyncpg.Connection, broadcast: Broadcast, channel: str) -> list[str]:
    """What is heard on a channel, once the connection surely listens there."""
    heard, _ = ear(broadcast, channel)

    async def sounded() -> bool:
        await admin.execute("select pg_notify($1, 'sounding')", f"tollway_{channel}")
        return "sounding" in heard

    await until_true(sounded)
    return heard


def without_soundings(heard: list[str]) -> list[str]:
    return [message for message in heard if message != "sounding"]


async def test_equal_messages_that_gather_are_said_once(database_url: str, admin: asyncpg.Connection) -> None:
    """Messages of one turn travel together in order, each once, and a process hears its own."""
    raw: list[str] = []
    async with speaker(database_url) as one, speaker(database_url) as other:
        heard, own = await listening(admin, other, "queue"), await listening(admin, one, "queue")
        await admin.add_listener("tollway_queue", lambda *told: raw.append(str(told[3])))
        for number in range(300):
            one.publish("queue", f"lane-{number % 3}")
        await until(lambda: len(without_soundings(heard)) == 3 == len(without_soundings(own)))
        assert without_soundings(heard) == ["lane-0", "lane-1", "lane-2"]
        await until_true(lambda: admin.fetchval("select true") if "lane-0\nlane-1\nlane-2" in raw else asyncio.sleep(0))
        assert without_soundings(raw) == ["lane-0\nlane-1\nlane-2"]


async def test_many_messages_are_split_to_what_a_notification_holds(
    database_url: str, admin: asyncpg.Connection
) -> None:
    """Thousands of ids in several bytes an letter arrive whole; one beyond the limit is dropped alone."""
    async with speaker(database_url) as one, speaker(database_url) as other:
        heard = await listening(admin, other, "run")
        messages = [f"message-{number}-é" for number in range(3000)]
        for message in messages:
            one.publish("run", message)
        one.publish("run", "é" * PAYLOAD_BYTES_MAX)
        one.publish("run", "last")
        await until(lambda: heard[-1] == "last")
        assert without_soundings(heard) == [*messages, "last"]


@pytest.mark.parametrize("size", [1, 7, 1000, PAYLOAD_BYTES_MAX - 1, PAYLOAD_BYTES_MAX, 10_000])
def test_payloads_fit(size: int) -> None:
    """No payload is beyond the limit of a notification, and none of the messages that fit is lost or reordered."""
    messages = [str(number).zfill(size) for number in range(20)]
    payloads = join(messages)
    assert all(0 < len(payload.encode()) <= PAYLOAD_BYTES_MAX for payload in payloads)
    assert "\n".join(payloads).split("\n") == (messages if size < PAYLOAD_BYTES_MAX else [""])


async def test_a_lost_connection_is_made_again(database_url: str, admin: asyncpg.Connection) -> None:
    """After the server ended it, the process listens on all its channels again; what it says meanwhile is said then."""
    async with speaker(database_url) as one, speaker(database_url) as other:
        queue, run = await listening(admin, other, "queue"), await listening(admin, other, "run")
        killed = await admin.fetchval(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            "where application_name = 'tollway news' and datname = current_database()"
        )
        assert killed == 2
        await until(lambda: not one.connected and not other.connected)
        one.publish("queue", "said in the dark")
        await until(lambda: one.connected and other.connected)

        async def both() -> bool:
            one.publish("queue", "again")
            one.publish("run", "again")
            return "again" in queue and "again" in run

        await until_true(both)


async def test_what_was_said_while_away_is_said_on_return(database_url: str, admin: asyncpg.Connection) -> None:
    """A message published without a connection goes out with the next one."""
    async with speaker(database_url) as other:
        heard = await listening(admin, other, "queue")
        one = Broadcast(database_url)
        one.publish("queue", "early")
        await one.start()
        await until(lambda: "early" in heard)
        one.publish("queue", "parting")
        await one.stop()
        await one.stop()
        await until(lambda: "parting" in heard)


async def test_many_subscriptions_at_once(database_url: str, admin: asyncpg.Connection) -> None:
    """Channels subscribed in one turn, while news is being said, all listen: their LISTENs take turns."""
    async with speaker(database_url) as one:
        ears = {f"channel{number}": ear(one, f"channel{number}")[0] for number in range(40)}
        for _ in range(20):
            one.publish("queue", "noise")
            await asyncio.sleep(0)

        async def all_heard() -> bool:
            for channel in ears:
                one.publish(channel, "hello")
            return all(ears.values())

        await until_true(all_heard)
        assert one.connected
        assert (
            await admin.fetchval("select count(*) from pg_stat_activity where application_name = 'tollway news'") == 1
        )


async def test_an_ended_subscription_hears_nothing(database_url: str, admin: asyncpg.Connection) -> None:
    """The others of its channel still do; ending twice is nothing."""
    async with speaker(database_url) as one:
        first = await listening(admin, one, "queue")
        second, end = ear(one, "queue")
        end()
        end()
        one.publish("queue", "news")
        await until(lambda: "news" in first)
        assert second == []


async def test_without_an_address_there_is_only_polling() -> None:
    """Nothing is said, heard or kept, and nobody waits."""
    silent = Broadcast("")
    heard, end = ear(silent, "queue")
    await silent.start()
    silent.publish("queue", "news")
    assert not silent.connected
    assert not silent._pending
    end()
    await silent.stop()
    assert heard == []
