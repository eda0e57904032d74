"""A process with more than it can do, over real sockets: what it refuses costs little, and it opens by itself."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from asgi_client import AsgiClient
from ingress_kit import ADMIN_KEY, ApiHarness, LocalNews, make_agent
from runtime_kit import until
from tollway.ingress import gatekeeper
from tollway.ingress.listening import listen
from tollway.ingress.server import ApiServer, ServerOptions
from tollway.queue.admission import Strain
from tollway.record.agents import publish_agents
from tollway.record.database import Database
from tollway.record.keys import ensure_admin_key

BODY = json.dumps({"agent": "echo", "input": {"n": 1}}).encode()
CLIENTS = 60


@pytest.fixture
async def busy(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[ApiHarness, ApiServer]]:
    """A listening server that bears so little that a few dozen clients are too many."""
    monkeypatch.setattr(gatekeeper, "BEARABLE", Strain(lag_s=0.001, write_s=0.002))
    await ensure_admin_key(database, ADMIN_KEY)
    await publish_agents(database, [make_agent("echo", {})])
    harness = ApiHarness(database, LocalNews())
    server = ApiServer(harness.api, listen("127.0.0.1", 0), ServerOptions(grace_s=5))
    await harness.api.start()
    await server.start()
    yield harness, server
    await server.stop()
    await harness.api.stop()


def request(body: bytes) -> bytes:
    """The bytes of a submit."""
    head = (
        f"POST /v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Type: application/json\r\n"
    )
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> tuple[int, str]:
    """Submit once; the status and the refusal's code."""
    writer.write(request(body))
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    answer = json.loads(await reader.readexactly(size))
    return int(head.split()[1]), answer.get("code", "")


async def test_overload_is_refused_in_part_before_bodies_are_read_and_ends_with_it(
    busy: tuple[ApiHarness, ApiServer], database: Database
) -> None:
    """Clients that ask on and on are turned away in part, also with bodies that are no JSON; the rest is served, and
    what was taken is on record, no more and no less. When they have gone, nobody is turned away any more."""
    harness, server = busy
    shedder, answers, broken = harness.api.context.gatekeeper._shedder, Counter[tuple[int, str]](), Counter[int]()
    enough = asyncio.Event()

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        bad = number % 10 == 0
        while not enough.is_set():
            status, code = await ask(reader, writer, b"{" if bad else BODY)
            if bad:
                broken[status] += 1
            else:
                answers[status, code] += 1
        writer.close()
        await writer.wait_closed()

    clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
    await until(lambda: answers[429, "overloaded"] >= 200 and broken[429] >= 20)
    enough.set()
    await asyncio.gather(*clients)
    assert set(answers) == {(202, ""), (429, "overloaded")}
    assert set(broken) <= {400, 429}
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from queue") == answers[202, ""]
    await until(lambda: shedder.share == 0.0, 40.0)  # others may keep the processor busy for a while
    calm = AsgiClient(harness.api, ADMIN_KEY)
    assert [(await calm.post("/v1/runs", {"agent": "echo", "input": 1})).status for _ in range(5)] == [202] * 5
