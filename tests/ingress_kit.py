"""An API put together for tests, with news that travel within the process."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from asgi_client import AsgiClient
from tollway.domain.ids import IdMaker
from tollway.hotstate.run_news import RunNews
from tollway.ingress.app import create_app
from tollway.ingress.services import ApiOptions, ApiServices
from tollway.outbound.sse import EventStreams, StreamOptions
from tollway.record.accept import Accepts
from tollway.record.agents import AgentRecord
from tollway.record.database import Database
from tollway.record.quotas import TokenBook
from tollway.record.reads import RunReads
from tollway.record.settings_sync import SettingsSync, SyncOptions
from tollway.telemetry.metrics import Metrics

ADMIN_KEY = "tw_" + "a" * 40


class LocalNews:
    """News within one process, at once; `said` keeps them."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self._callbacks: dict[str, list[Callable[[str], None]]] = {}

    def publish(self, channel: str, message: str) -> None:
        """Tell every subscriber."""
        self.said.append((channel, message))
        for callback in list(self._callbacks.get(channel, ())):
            callback(message)

    def subscribe(self, channel: str, callback: Callable[[str], None]) -> Callable[[], None]:
        """Subscribe."""
        self._callbacks.setdefault(channel, []).append(callback)
        return lambda: self._callbacks[channel].remove(callback)


class ApiHarness:
    """One API process' objects."""

    def __init__(self, database: Database, news: LocalNews, options: ApiOptions | None = None, **sync: Any) -> None:
        clock = database.clock
        self.database = database
        self.news = news
        self.reads = RunReads(database)
        self.run_news = RunNews(news)
        self.sync = SettingsSync(database, news, clock, SyncOptions(**sync))
        self.streams = EventStreams(self.reads, self.run_news, news, StreamOptions(poll_s=0.05))
        self.ids = IdMaker(clock)
        self.services = ApiServices(
            database=database,
            accepts=Accepts(database),
            reads=self.reads,
            sync=self.sync,
            news=news,
            run_news=self.run_news,
            streams=self.streams,
            ids=self.ids,
            clock=clock,
            metrics=Metrics(),
            tokens=TokenBook(database, news, clock, reads=True),
            options=options or ApiOptions(),
        )
        self.api = create_app(self.services)


def make_agent(name: str, schema: dict[str, Any], version: str = "1") -> AgentRecord:
    """An agent as a worker would publish it."""
    return AgentRecord(name, version, "standard", "fast", schema, {}, timeout_s=60, max_attempts=3)


async def submit(client: AsgiClient, **fields: Any) -> str:
    """Submit a run; its id."""
    answer = await client.post("/v1/runs", {"agent": "echo", "input": 1, **fields})
    assert answer.status == 202, answer.body
    run: str = answer.json["id"]
    return run


async def hold(harness: ApiHarness, run: str) -> None:
    """Put the run into a worker's hands."""
    async with harness.database.connection() as connection:
        await connection.execute(
            "update queue set state = 1, worker = 1, fence = 1, next_seq = 3, started_at = now() where run_id = $1",
            UUID(run),
        )


async def bury(harness: ApiHarness, run: str, fingerprint: str = "f1") -> None:
    """End the run as a dead letter with three finished steps."""
    async with harness.database.connection() as connection, connection.transaction():
        await connection.execute("delete from queue where run_id = $1", UUID(run))
        await connection.execute(
            "update run set state = 'dead', ended_at = now(), error_code = 'boom', error_message = 'no', attempt = 3,"
            " fence = 1, steps = 3, llm_calls = 1, tool_calls = 0, input_tokens = 5, output_tokens = 6,"
            " cached_tokens = 0, cost_nano = 1500000001 where id = $1",
            UUID(run),
        )
        await connection.execute("insert into event values ($1, 2, 'dead', now(), 'worker', '1', null)", UUID(run))
        await connection.execute(
            "insert into dead_letter select id, tenant, agent, lane, $2, 'boom', 'no', 1500000001, now() from run"
            " where id = $1",
            UUID(run),
            fingerprint,
        )
        for n in (1, 2, 3):
            await connection.execute(
                "insert into step (run_id, n, path, kind, name, state, attempt, fence, call_id, started_at, ended_at,"
                " result, cost_nano, calls)"
                " values ($1, $2, 'p', 'task', 's', 'done', 1, 1, $1, now(), now(), '1', 7, 1)",
                UUID(run),
                n,
            )
