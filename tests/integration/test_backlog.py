"""The count of the queue: right by kind, shared, and made only when somebody asks."""

import asyncio
from collections import Counter

import asyncpg
import pytest

from record_kit import accept_all, claim, clock, new_claims, new_run
from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import DatabaseUnavailable
from tollway.record.backlog import INTERVAL_PER_READ, BacklogWatch, Count, read_backlog
from tollway.record.database import Database, DatabaseOptions
from tollway.record.tenants import put_tenant


class CountingDatabase(Database):
    """Counts how often a connection was asked for."""

    uses = 0

    def connection(self):  # type: ignore[no-untyped-def]
        """As the real one, counted."""
        self.uses += 1
        return super().connection()


class Hands:
    """A clock that stands still until it is moved, or goes on by `step` seconds whenever it is looked at."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.step = 0.0

    def now(self) -> float:
        """As `monotonic`."""
        return self.at

    def monotonic(self) -> float:
        """Where the hands are."""
        self.at += self.step
        return self.at


@pytest.fixture
async def counting(database_url: str):  # type: ignore[no-untyped-def]
    """A database that counts its uses."""
    opened = CountingDatabase(DatabaseOptions(database_url), AnchoredClock())
    await opened.start()
    yield opened
    await opened.stop()


async def test_every_live_run_is_counted_by_line_and_kind(database: Database, admin: asyncpg.Connection) -> None:
    """Runnable, shut, gated, parked, waiting and running are told apart, by lane, agent and tenant."""
    await put_tenant(database, "acme", {})
    await put_tenant(database, "paused", {"paused": True})
    await accept_all(
        database,
        [
            *(new_run(tenant="acme") for _ in range(5)),
            *(new_run(tenant="acme", agent="report", lane="batch") for _ in range(3)),
            *(new_run(tenant="paused") for _ in range(4)),
            *(new_run(tenant="paused", delay_s=60.0) for _ in range(2)),
        ],
    )
    claims, _ = await new_claims(database)
    held = (await claim(claims, 4)).claims
    await admin.execute(
        "update queue set gate = 'key:' || run_id "
        "where run_id in (select run_id from queue where lane = 'batch' limit 2)"
    )
    for state, gate, one in ((3, "capacity:fast", held[0]), (3, "time", held[1]), (2, None, held[2])):
        await admin.execute(
            "update queue set state = $1, gate = $2, worker = null where run_id = $3", state, gate, one.run_id
        )
    backlog = await read_backlog(database, clock)
    assert backlog.lines == {
        ("standard", "triage", "acme"): Count(1, 0, 1, 1, {}, {"capacity": 1, "time": 1}),
        ("batch", "report", "acme"): Count(1, 0, 0, 0, {"key": 2}, {}),
        ("standard", "triage", "paused"): Count(0, 4, 0, 0, {"time": 2}, {}),
    }
    standard = backlog.of("standard")
    assert (standard.runnable, standard.queued, standard.blocked, standard.running) == (1, 7, 9, 1)
    assert standard.reasons == {"shut": 4, "waiting": 1, "time": 3, "capacity": 1}
    assert backlog.of(tenant="acme").queued == 4
    assert backlog.of("batch", "acme") == backlog.lanes["batch"] == backlog.classes("acme")["batch", "report"]
    assert backlog.of("batch", "paused") == backlog.of("interactive") == backlog.of(tenant="nobody") == Count()
    assert backlog.of().queued == 10


async def test_nothing_is_counted_twice_or_missed(database: Database, admin: asyncpg.Connection) -> None:
    """The sums are those of the table, whatever the states."""
    await accept_all(database, [new_run(agent=f"a{n % 3}", lane=("standard", "batch")[n % 2]) for n in range(60)])
    claims, _ = await new_claims(database)
    await claim(claims, 7, agent="a0")
    found = (await read_backlog(database, clock)).of()
    states = Counter(row[0] for row in await admin.fetch("select state from queue"))
    assert (found.queued, found.running) == (states[0], states[1]) == (53, 7)


async def test_nobody_asks_nothing_is_read(counting: CountingDatabase) -> None:
    """A watch that nobody asks makes no query; many who ask at once share one."""
    hands = Hands()
    watch = BacklogWatch(counting, hands)
    before = counting.uses
    found = await asyncio.gather(*(watch.fresh() for _ in range(20)))
    assert counting.uses == before + 1
    assert all(one is found[0] for one in found)
    assert watch.latest is found[0]
    hands.at += 0.9
    assert await watch.fresh() is watch.latest is found[0]
    assert counting.uses == before + 1
    hands.at += 0.2
    assert await watch.fresh() is not found[0]
    assert counting.uses == before + 2
    await watch.stop()


async def test_a_costly_count_is_made_rarely(counting: CountingDatabase) -> None:
    """The pause between counts is fifty times what a count takes: until then the last one serves, then a new one."""
    hands = Hands()
    hands.step = 1.0
    watch = BacklogWatch(counting, hands)
    first = await watch.fresh()
    hands.step = 0.0
    assert watch.interval_s == first.took_s * INTERVAL_PER_READ == INTERVAL_PER_READ
    hands.at = first.at + watch.interval_s - 0.1
    assert await watch.fresh(0.0) is first
    hands.at += 0.2
    assert await watch.fresh(0.0) is not first


async def test_an_old_count_is_not_told_and_an_outage_is_said(counting: CountingDatabase) -> None:
    """`latest` forgets what is too old to act on, and `fresh` raises when there is nothing better."""
    hands = Hands()
    watch = BacklogWatch(counting, hands)
    assert watch.latest is None
    await watch.fresh()
    assert watch.latest is not None
    await counting.stop()
    hands.at += 60
    assert watch.latest is None
    with pytest.raises(DatabaseUnavailable):
        await watch.fresh()
    await watch.stop()
    await watch.stop()
