"""A migrated record, a receiver of webhooks, and ended runs whose webhook is due."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tollway.domain.clock import AnchoredClock
from tollway.domain.ids import IdMaker
from tollway.record.database import Database, DatabaseOptions
from tollway.record.migrate import migrate
from tollway.record.server import EmbeddedPostgres

_numbers = itertools.count()


@dataclass
class Received:
    """One request as the receiver saw it, its header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A real HTTP server on loopback; `answers` (whole answers) are given in turn, the last one again and again."""

    port: int = 0
    answers: list[bytes] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    open_now: int = 0
    open_most: int = 0
    hold: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/hook"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers["content-length"]))
                self.received.append(Received(first.split()[1], headers, body))
                self.open_now += 1
                self.open_most = max(self.open_most, self.open_now)
                try:
                    if self.hold is not None:
                        await self.hold.wait()
                finally:
                    self.open_now -= 1
                writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Hooks:
    """The record's deliveries, as a test makes and sees them."""

    database: Database
    admin: asyncpg.Connection
    ids: IdMaker

    async def ended_run(self, url: str, secret_env: str | None = None, output: Any = None) -> UUID:
        """A run that succeeded just now, its webhook due."""
        run_id = self.ids.new()
        await self.admin.execute(
            """insert into run (id, tenant, agent, version, lane, key_id, input, created_at, max_attempts, webhook_url,
                state, output, attempt, started_at, ended_at, steps, llm_calls, tool_calls, input_tokens, output_tokens,
                cached_tokens, cost_nano)
            values ($1, 'acme', 'triage', '1', 'batch', 'k', '{}', now(), 1, $2, 'succeeded', $3, 1, now(), now(),
                0, 0, 0, 0, 0, 0, 0)""",
            run_id,
            url,
            json.dumps(output).encode(),
        )
        await self.admin.execute(
            "insert into webhook_delivery (run_id, url, secret_env, due_at) values ($1, $2, $3, now())",
            run_id,
            url,
            secret_env,
        )
        return run_id

    async def delivery(self, run_id: UUID) -> asyncpg.Record | None:
        """The row of a delivery that is not over."""
        return await self.admin.fetchrow("select * from webhook_delivery where run_id = $1", run_id)

    async def make_due(self, run_id: UUID) -> None:
        """Let a delivery's rest be over."""
        await self.admin.execute("update webhook_delivery set due_at = now() where run_id = $1", run_id)

    async def left(self) -> int:
        """How many deliveries are not over."""
        return int(await self.admin.fetchval("select count(*) from webhook_delivery"))


@pytest.fixture
async def hooks(postgres: EmbeddedPostgres) -> AsyncIterator[Hooks]:
    """A database of this test's own, seen as the processes' role and as the administrator."""
    name = f"hooks_{next(_numbers)}"
    owner = await asyncpg.connect(postgres.admin_url)
    await owner.execute(f"create database {name} owner tollway")
    await migrate(postgres.url_of("tollway", name))
    database = Database(
        DatabaseOptions(postgres.url_of("tollway_app", name), connections_max=4), clock := AnchoredClock()
    )
    await database.start()
    admin = await asyncpg.connect(postgres.url_of("tollway", name))
    yield Hooks(database, admin, IdMaker(clock))
    await admin.close()
    await database.stop()
    await owner.execute(f"drop database {name} with (force)")
    await owner.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that answers 204 until told otherwise."""
    receiver = Receiver(answers=[answer(204)])
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    yield receiver
    if receiver.hold is not None:
        receiver.hold.set()
    server.close()
    await server.wait_closed()


async def eventually(holds: Callable[[], Any], within_s: float = 10.0) -> Any:
    """Poll until `holds()` (awaited if it must be) is true; returns what it gave."""
    until = time.monotonic() + within_s
    while True:
        found = holds()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < until, "it did not come true in time"
        await asyncio.sleep(0.02)
