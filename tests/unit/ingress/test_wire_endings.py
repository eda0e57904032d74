"""The wire when an answer goes wrong: whatever a vendor says and whoever leaves, clients are told and calls end."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from governor_kit import CALLER, MemoryBooks, SetBudgets, guards
from llm_kit import answering, gateway_to, read_request, serving
from tollway.config import Llm, Route
from tollway.domain.budgets import Budget, LadderStep, Period, Rung
from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import LlmError
from tollway.domain.ids import IdMaker
from tollway.ingress.wire.app import WireApp
from tollway.ingress.wire.catalogue import ModelCatalogue
from tollway.ingress.wire.desk import WireHead
from tollway.ingress.wire.door import Door, DoorOptions, DoorServices
from tollway.ingress.wire.local import LocalWire
from tollway.llm.accounts import Guest
from tollway.llm.calls import CallResult
from tollway.llm.governor import Governor, GovernorOptions
from tollway.spend.ladder import Account
from tollway.telemetry.metrics import Metrics

PATH = "/v1/chat/completions"


class OpenAccount(MemoryBooks):
    """An account that keeps what it is told."""

    call_id = ""

    async def recorded(self) -> CallResult | None:
        """Nothing is."""
        return None

    def streams(self, so_far: Callable[[], CallResult | None]) -> None:
        """Nothing to note."""

    async def stand_by(self, error: LlmError) -> None:
        """Nobody waits."""
        raise error

    def gave_up(self) -> None:
        """Nothing to note."""


class OpenDesk:
    """Lets everybody in, on one account."""

    def __init__(self) -> None:
        self.account = OpenAccount()

    def identify(self, head: WireHead) -> Guest:
        """Anybody."""
        return Guest(CALLER, lambda request: self.account)


@asynccontextmanager
async def door_to(script: Any, **options: Any) -> AsyncIterator[tuple[Door, OpenDesk, Governor]]:
    """A door before a provider that answers as scripted; `options` are its governor's."""
    clock, metrics, desk = AnchoredClock(), Metrics(), OpenDesk()
    async with serving(script) as url:
        gateway = gateway_to("openai", url)
        await gateway.start()
        governor = Governor(gateway, guards(), metrics, GovernorOptions(Llm(), clock, **options))
        catalogue = ModelCatalogue([Route(name="one", tier="fast", provider="sim", model="m")])
        services = DoorServices(
            governor, desk, catalogue, IdMaker(clock), clock, metrics, lambda: None, DoorOptions(100, 30.0)
        )
        try:
            yield Door(services), desk, governor
        finally:
            await gateway.stop()


def asked(**more: Any) -> bytes:
    """The body of a request."""
    return json.dumps({"model": "fast", "messages": [{"role": "user", "content": "hi"}], **more}).encode()


async def answer_to(door: Door, body: bytes) -> bytes:
    """All that a real connection brings back until it is closed."""
    server = LocalWire(door)
    port = int(server.base_url().rsplit(":", 1)[1].removesuffix("/v1"))
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head.encode() + b"content-length: %d\r\n\r\n%b" % (len(body), body))
            told = await reader.read()
            writer.close()
            return told
    finally:
        await server.stop()


@pytest.mark.parametrize(("said", "told"), [(422, 422), (499, 400), (401, 502), (599, 502)])
async def test_any_status_of_a_vendor_becomes_an_answer(said: int, told: int) -> None:
    """Numbers that HTTP does not name are told as ones it does, so that no client waits for ever."""
    body = b'{"error":{"message":"no"}}'
    refusal = b"HTTP/1.1 %d Odd\r\ncontent-length: %d\r\n\r\n%b" % (said, len(body), body)
    async with door_to(answering(refusal)) as (door, _, _):
        assert (await answer_to(door, asked())).startswith(b"HTTP/1.1 %d " % told)


async def test_a_fault_of_ours_closes_the_connection() -> None:
    """An answer that cannot be written leaves no client waiting."""

    class Broken(Door):
        async def answer(self, order: Any) -> Any:
            raise ArithmeticError("of ours")

    async with door_to(answering()) as (door, _, _):
        assert await answer_to(Broken(door._services), asked()) == b""


async def streaming(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Streams one word, and then nothing."""
    await read_request(reader)
    event = b'data: {"choices":[{"delta":{"content":"Well"}}]}\n\n'
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(event), event))
    await writer.drain()
    await reader.read()


async def test_a_degraded_answer_says_its_rungs() -> None:
    """P12: over the wire a header names them, of a whole answer and of a stream; without any there is none."""
    ladder = (LadderStep(0, Rung.ALERT), LadderStep(0, Rung.FEWER_TOKENS))
    budgets = SetBudgets([Account(Budget(7, CALLER.tenant, Period.DAY, hard_nano=9, ladder=ladder), 0)])
    said = b'{"choices":[{"message":{"content":"Well"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}'
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(said), said)
    event = b'data: {"choices":[{"delta":{"content":"Well"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    streamed = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(event), event)
    for script, stream in ((whole, False), (streamed, True)):
        async with door_to(answering(script), budgets=budgets) as (door, desk, _):
            told = await answer_to(door, asked(stream=stream))
            assert b"\r\nx-tollway-degraded: fewer_tokens\r\n" in told
            assert desk.account.plans[0].request.max_tokens == 50
        async with door_to(answering(script)) as (door, _, _):
            assert b"x-tollway-degraded" not in await answer_to(door, asked(stream=stream))


async def test_a_client_gone_before_the_headers_ends_the_call() -> None:
    """A stream whose headers cannot be sent any more is closed upstream and accounted, though nobody read a piece."""

    async def receive() -> dict[str, Any]:
        if bodies:
            return {"type": "http.request", "body": bodies.pop()}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        raise ConnectionResetError("gone")

    bodies = [asked(stream=True)]
    async with door_to(streaming) as (door, desk, governor):
        scope = {"path": PATH, "method": "POST", "headers": [(b"content-type", b"application/json")]}
        with pytest.raises(ConnectionResetError):
            await WireApp(door)(scope, receive, send)
        assert desk.account.told == [("intend", "one"), ("settle", "one")]
        assert governor.board.meter("one").in_flight == 0
