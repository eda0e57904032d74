"""The simulated provider over real sockets, and its command as a real process."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import RequestError

from tollway.domain.errors import ConfigError
from tollway.simulator.provider import RunningSim, start_provider_sim

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
HELLO = {"role": "user", "content": "hello there"}
SCHEMA = {
    "type": "object",
    "properties": {"intent": {"enum": ["card_arrival", "exchange_rate"]}},
    "required": ["intent"],
}


class Sim:
    """A running provider and a client to it."""

    def __init__(self, running: RunningSim, client: Client) -> None:
        self.running = running
        self._client = client

    async def post(self, path: str, body: Any, call_id: str = "c1") -> tuple[int, dict[str, str], str]:
        """Status, headers and text of an answer."""
        request = self._client.post(self.running.url + path).body_bytes(msgspec.json.encode(body))
        response = await request.header("x-tollway-call-id", call_id).build().send()
        return response.status, {name.lower(): value for name, value in response.headers.items()}, await response.text()

    async def get(self, path: str) -> Any:
        """The JSON of an answer."""
        return json.loads(await (await self._client.get(self.running.url + path).build().send()).text())

    async def ask(self, **fields: Any) -> Any:
        """The JSON of a chat completion."""
        status, _, text = await self.post(CHAT, {"model": "m", "messages": [HELLO], **fields})
        assert status == 200, text
        return json.loads(text)

    async def raw(self, data: bytes) -> bytes:
        """What comes back until the server closes, for bytes sent as they are."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.running.port)
        writer.write(data)
        received = await reader.read()
        writer.close()
        await writer.wait_closed()
        return received


@asynccontextmanager
async def running(**config: Any) -> AsyncIterator[Sim]:
    sim = await start_provider_sim({"latency_s": 0, **config})
    try:
        async with ClientBuilder().error_for_status(False).build() as client:
            yield Sim(sim, client)
    finally:
        await sim.stop()


async def until(fact: Callable[[], bool]) -> None:
    """Wait for a fact, at most 5 s."""
    deadline = time.monotonic() + 5
    while not fact():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.005)


def events(text: str) -> list[Any]:
    """The data of server-sent events, as JSON where it is."""
    lines = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def http(body: Any, *headers: str, path: str = CHAT) -> bytes:
    """A raw request."""
    data = msgspec.json.encode(body)
    head = "\r\n".join([f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(data)}", *headers])
    return head.encode() + b"\r\n\r\n" + data


async def test_a_chat_completion_and_its_row() -> None:
    """A plain call answers in OpenAI's form with exact tokens, and its row carries the call id and the exact cost."""
    async with running(output_tokens=12) as sim:
        status, headers, text = await sim.post(CHAT, {"model": "m", "messages": [HELLO]}, "call-7")
        answer = json.loads(text)
        assert (status, headers["content-type"]) == (200, "application/json")
        assert answer["object"] == "chat.completion"
        choice = answer["choices"][0]
        assert choice["finish_reason"] == "stop"
        assert len(choice["message"]["content"].split()) == 12
        assert answer["usage"]["prompt_tokens"] == 3
        assert answer["usage"]["completion_tokens"] == 12
        assert answer["usage"]["total_tokens"] == 15
        ledger = await sim.get("/sim/ledger")
        row = ledger["rows"][0]
        assert (row["call_id"], row["model"], row["status"], row["fault"]) == ("call-7", "m", 200, None)
        assert (row["input_tokens"], row["output_tokens"], row["cost_nano"]) == (3, 12, 3 * 150 + 12 * 600)
        assert ledger["totals"]["cost_nano"] == row["cost_nano"]


async def test_max_tokens_caps_the_answer() -> None:
    """An answer longer than the request allows ends at max_tokens and says so, under both of its names."""
    async with running(output_tokens=50) as sim:
        for name in ("max_tokens", "max_completion_tokens"):
            answer = await sim.ask(**{name: 5})
            assert answer["usage"]["completion_tokens"] == 5
            assert answer["choices"][0]["finish_reason"] == "length"
        _, _, text = await sim.post(MESSAGES, {"model": "m", "max_tokens": 5, "messages": [HELLO]})
        message = json.loads(text)
        assert message["stop_reason"] == "max_tokens"
        assert message["usage"]["output_tokens"] == 5


async def test_a_chat_stream_in_the_vendors_order() -> None:
    """Role first, then content, the finish reason, the usage when asked for, [DONE]; the text is the plain one."""
    async with running() as sim:
        plain = await sim.ask()
        body = {"model": "m", "messages": [HELLO], "stream": True, "stream_options": {"include_usage": True}}
        _, headers, text = await sim.post(CHAT, body)
        assert headers["content-type"].startswith("text/event-stream")
        *chunks, usage, done = events(text)
        assert done == "[DONE]"
        assert usage["choices"] == []
        assert usage["usage"] == plain["usage"]
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        content = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert content == plain["choices"][0]["message"]["content"]
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
        assert len(chunks) > 3


async def test_a_message_stream_in_the_vendors_order() -> None:
    """Anthropic's events come in its order, the input's usage at the start and the output's at the end."""
    async with running(output_tokens=9) as sim:
        body = {"model": "m", "max_tokens": 50, "messages": [HELLO], "system": "Be kind", "stream": True}
        _, _, text = await sim.post(MESSAGES, body)
        names = [line[7:] for line in text.split("\n") if line.startswith("event: ")]
        data = events(text)
        assert names == [event["type"] for event in data]
        assert names[:3] == ["message_start", "content_block_start", "ping"]
        assert set(names[3:-3]) == {"content_block_delta"}
        assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        assert data[0]["message"]["usage"]["input_tokens"] == 5
        assert data[-2]["usage"]["output_tokens"] == 9
        assert data[-2]["delta"]["stop_reason"] == "end_turn"
        assert len("".join(event["delta"]["text"] for event in data[3:-3]).split()) == 9


async def test_structured_answers_on_both_wires() -> None:
    """json_schema, a forced function and a forced tool each get a fitting, sensible object, streamed too."""
    say = {"role": "user", "content": "Classify: when will my card arrive?"}
    want = {"intent": "card_arrival"}
    async with running() as sim:
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
        answer = await sim.ask(messages=[say], response_format=form)
        assert json.loads(answer["choices"][0]["message"]["content"]) == want
        tools = [{"type": "function", "function": {"name": "pick", "parameters": SCHEMA}}]
        answer = await sim.ask(messages=[say], tools=tools, tool_choice="required")
        call = answer["choices"][0]["message"]["tool_calls"][0]["function"]
        assert (call["name"], json.loads(call["arguments"])) == ("pick", want)
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
        body = {
            "model": "m",
            "max_tokens": 9,
            "messages": [say],
            "tools": [{"name": "pick", "input_schema": SCHEMA}],
            "tool_choice": {"type": "tool", "name": "pick"},
        }
        message = json.loads((await sim.post(MESSAGES, body))[2])
        assert message["content"][0]["type"] == "tool_use"
        assert message["content"][0]["input"] == want
        assert message["stop_reason"] == "tool_use"
        data = events((await sim.post(MESSAGES, {**body, "stream": True}))[2])
        parts = [event["delta"]["partial_json"] for event in data if event["type"] == "content_block_delta"]
        assert json.loads("".join(parts)) == want


async def test_limits_refuse_with_the_vendors_headers() -> None:
    """Beyond the bucket each wire answers 429 in its form, says when to return, costs nothing; 200s show the limits."""
    async with running(rpm=2, tpm=60_000, bucket_s=60) as sim:
        body = {"model": "m", "max_tokens": 7, "messages": [HELLO]}
        status, headers, _ = await sim.post(CHAT, body)
        assert (status, headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == (
            200,
            "2",
            "1",
        )
        assert headers["x-ratelimit-remaining-tokens"] == str(60_000 - 3 - 7)
        status, headers, _ = await sim.post(MESSAGES, body)
        assert (status, headers["anthropic-ratelimit-requests-remaining"]) == (200, "0")
        assert headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        status, headers, text = await sim.post(CHAT, body)
        assert status == 429
        assert json.loads(text)["error"]["code"] == "rate_limit_exceeded"
        assert 0 < int(headers["retry-after-ms"]) <= 30_000
        assert 1 <= int(headers["retry-after"]) <= 30
        status, headers, text = await sim.post(MESSAGES, body)
        assert (status, json.loads(text)["error"]["type"]) == (429, "rate_limit_error")
        totals = (await sim.get("/sim/ledger?totals=1"))["totals"]
        assert totals["by_status"] == {"200": 2, "429": 2}
        assert totals["output_tokens"] == 14


async def test_a_change_at_run_time_holds_at_once_and_wholly_or_not_at_all() -> None:
    """A good change is merged and shown; a bad one is 422 and changes nothing; unchanged limits keep their level."""
    async with running(rpm=1, bucket_s=60) as sim:
        await sim.ask()
        status, _, text = await sim.post("/sim/config", {"output_tokens": 4, "fault_rates": {"slow": 2}})
        assert (status, "slow" in text) == (422, True)
        assert (await sim.get("/sim/config"))["output_tokens"] == 20
        assert (await sim.post("/sim/config", {"output_tokens": 4}))[0] == 200
        assert (await sim.post(CHAT, {"model": "m", "messages": [HELLO]}))[0] == 429
        assert (await sim.post("/sim/config", {"rpm": None}))[0] == 200
        assert (await sim.ask())["usage"]["completion_tokens"] == 4
        assert (await sim.post("/sim/config", [1]))[0] == 422
        assert (await sim.post("/sim/config", "x"))[0] == 422
        assert (
            b"400"
            in (await sim.raw(b"POST /sim/config HTTP/1.1\r\ncontent-length: 1\r\nconnection: close\r\n\r\n{"))[:20]
        )


async def test_a_reset_empties_the_ledger_and_fills_the_buckets() -> None:
    """After a reset nothing is in the ledger and the limits start afresh."""
    async with running(rpm=1, bucket_s=60) as sim:
        await sim.ask()
        await sim.post("/sim/reset", {})
        assert (await sim.get("/sim/ledger"))["rows"] == []
        await sim.ask()


async def test_injected_errors_are_billed_nothing() -> None:
    """A rate of 1 for 429 or 500 makes every call fail so, in the wire's form, with no cost and the fault named."""
    async with running() as sim:
        for status in (429, 500):
            await sim.post("/sim/reset", {})
            rates = {"status_429": 0, "status_500": 0, f"status_{status}": 1}
            await sim.post("/sim/config", {"fault_rates": rates})
            got, headers, text = await sim.post(CHAT, {"model": "m", "messages": [HELLO]})
            assert got == status
            assert json.loads(text)["error"]["message"]
            assert ("retry-after" in headers) == (status == 429)
            row = (await sim.get("/sim/ledger"))["rows"][0]
            assert (row["status"], row["fault"], row["cost_nano"]) == (status, f"status_{status}", 0)


async def test_garbage_cannot_be_read_and_is_billed() -> None:
    """Garbled answers are 200, are no completion, and cost what the answer would have."""
    async with running(fault_rates={"garbage": 1}) as sim:
        for _ in range(3):
            status, _, text = await sim.post(CHAT, {"model": "m", "messages": [HELLO]})
            assert status == 200
            with pytest.raises((ValueError, KeyError)):
                json.loads(text)["choices"]
        _, _, text = await sim.post(CHAT, {"model": "m", "messages": [HELLO], "stream": True})
        with pytest.raises(ValueError):
            events(text)
        totals = (await sim.get("/sim/ledger"))["totals"]
        assert totals["by_fault"] == {"garbage": 4}
        assert totals["output_tokens"] == 80


async def test_a_cut_answer_ends_half_way_and_bills_what_was_sent() -> None:
    """The connection closes in the middle, of a whole answer and of a stream; input is billed whole, output by half."""
    async with running(fault_rates={"cut": 1}) as sim:
        for stream in (False, True):
            with pytest.raises(RequestError):
                await sim.post(CHAT, {"model": "m", "messages": [HELLO], "stream": stream})
        rows = (await sim.get("/sim/ledger"))["rows"]
        assert [(row["status"], row["fault"]) for row in rows] == [(200, "cut")] * 2
        assert [(row["input_tokens"], row["output_tokens"]) for row in rows] == [(3, 10)] * 2


async def test_a_slow_answer_comes_late() -> None:
    """The fault `slow` adds slow_s to the latency."""
    async with running(fault_rates={"slow": 1}, slow_s=0.2) as sim:
        began = time.monotonic()
        await sim.ask()
        assert time.monotonic() - began >= 0.19
        assert (await sim.get("/sim/ledger"))["rows"][0]["fault"] == "slow"


async def test_a_stream_is_paced_by_tokens_per_s() -> None:
    """At 100 tokens/s a stream of 20 takes its 0.2 s, and so does the plain answer."""
    async with running(tokens_per_s=100) as sim:
        for stream in (False, True):
            began = time.monotonic()
            await sim.post(CHAT, {"model": "m", "messages": [HELLO], "stream": stream})
            assert time.monotonic() - began >= 0.18


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_is_in_the_ledger(stream: bool) -> None:
    """A call whose client is gone ends as cancelled: billed whole if plain, by what was sent if it streamed."""
    config = {"tokens_per_s": 10, "output_tokens": 1000} if stream else {"latency_s": 60}
    async with running(**config) as sim:
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.running.port)
        writer.write(http({"model": "m", "messages": [HELLO], "stream": stream}, "X-Tollway-Call-Id: gone"))
        if stream:
            await reader.readuntil(b'"content":"')
        else:
            await until(lambda: sim.running.ledger.in_flight == 1)
        writer.close()
        await writer.wait_closed()
        await until(lambda: len(sim.running.ledger) == 1)
        row = next(sim.running.ledger.rows())
        assert (row.call_id, row.status, row.fault, row.input_tokens) == ("gone", 499, "cancelled", 3)
        assert (row.output_tokens < 100) if stream else (row.output_tokens == 20)
        assert sim.running.ledger.in_flight == 0


async def test_pipelined_and_chunked_requests_are_answered_in_order() -> None:
    """Requests sent ahead are answered one after another, bodies in chunks included; `connection: close` ends it."""
    async with running(latency_s=0.01) as sim:
        parts = [b'{"model":"b', b'","messages":[{"role":"user","content":"x"}]}', b""]
        chunked = b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\nx-tollway-call-id: b\r\n\r\n"
        chunked += b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
        first = http({"model": "a", "messages": [HELLO]}, "x-tollway-call-id: a")
        health = b"GET /healthz HTTP/1.1\r\n\r\n" * 3000
        last = http({"model": "c", "messages": [HELLO]}, "connection: close", "x-tollway-call-id: c")
        received = await sim.raw(first + chunked + health + last)
        assert received.count(b"HTTP/1.1 200 OK") == 3003
        assert received.index(b'"model":"a"') < received.index(b'"model":"b"') < received.index(b'"model":"c"')
        assert [row.call_id for row in sim.running.ledger.rows()] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "JSON"),
        (b"[1]", "object"),
        (b'{"messages": []}', "model"),
        (b'{"model": "m"}', "messages"),
        (b'{"model": "m", "max_tokens": 1, "messages": []}', "messages"),
        (b'{"model": "m", "max_tokens": 0, "messages": [{"role": "user", "content": "x"}]}', "max_tokens"),
        (b'{"model": 5, "messages": [{"role": "user", "content": "x"}]}', "model"),
        (b'{"model": "m", "x": ' + b"[" * 100_000, "nested"),
        (b'{"model": "\xff"}', "JSON|model"),
    ],
)
async def test_bad_requests_get_the_vendors_error(body: bytes, told: str) -> None:
    """P11: each wire refuses what it cannot read with 400 in its own form, naming the trouble, billing nothing."""
    async with running() as sim:
        for path in (CHAT, MESSAGES):
            head = f"POST {path} HTTP/1.1\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
            received = await sim.raw(head + body)
            assert received.startswith(b"HTTP/1.1 400 Bad Request")
            error = json.loads(received.partition(b"\r\n\r\n")[2])
            assert error["error"]["type"] == "invalid_request_error"
            assert any(word in error["error"]["message"] for word in told.split("|"))
            assert ("request_id" in error) == (path == MESSAGES)
        assert [(row.status, row.cost_nano) for row in sim.running.ledger.rows()] == [(400, 0), (400, 0)]


async def test_what_is_no_call_is_answered_clearly() -> None:
    """Unknown routes are 404, wrong methods 405, rubbish 400, too much 413 or 431; none of it reaches the ledger."""
    async with running() as sim:
        assert (await sim.post("/v1/nothing", {}))[0] == 404
        assert (await sim.post("/healthz", {}))[0] == 405
        assert (await sim.get(CHAT))["error"]["type"] == "invalid_request_error"
        assert (await sim.get("/sim/ledger?limit=x"))["error"]
        assert (await sim.get("/sim/ledger?colour=x"))["error"]
        assert (await sim.get("/healthz")) == {"status": "ok"}
        assert {"id": "sim-fast", "object": "model"}.items() <= (await sim.get("/v1/models"))["data"][0].items()
        assert (await sim.raw(b"rubbish\r\n\r\n")).startswith(b"HTTP/1.1 400")
        assert (await sim.raw(b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000)).startswith(b"HTTP/1.1 431")
        head = b"POST /v1/messages HTTP/1.1\r\ncontent-length: 17000000\r\n\r\n"
        assert (await sim.raw(head + b" " * 16_800_000)).startswith(b"HTTP/1.1 413")
        assert len(sim.running.ledger) == 0


async def test_a_stop_ends_calls_in_flight_and_may_be_repeated() -> None:
    """Stopping writes calls under way down as cancelled, closes the port, and a second stop does nothing."""
    sim = await start_provider_sim({"latency_s": 60})
    _, writer = await asyncio.open_connection("127.0.0.1", sim.port)
    writer.write(http({"model": "m", "messages": [HELLO]}))
    await until(lambda: sim.ledger.in_flight == 1)
    await sim.stop()
    await sim.stop()
    assert [row.fault for row in sim.ledger.rows()] == ["cancelled"]
    writer.close()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", sim.port)


async def test_a_bad_configuration_does_not_start() -> None:
    """P11: an unknown key is an error before anything listens."""
    with pytest.raises(ConfigError, match="latency"):
        await start_provider_sim({"latency": 1})


def command(*arguments: str) -> subprocess.Popen[str]:
    """`tollway provider-sim` as a process."""
    tollway = Path(sys.executable).parent / "tollway"
    return subprocess.Popen(
        [str(tollway), "provider-sim", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_where_it_listens_and_stops_with_0(tmp_path: Path, how: signal.Signals) -> None:
    """The command prints its address at once, takes its TOML file, and a signal ends it with exit code 0."""
    config = tmp_path / "sim.toml"
    config.write_text("rpm = 60\n[latency_s]\nmean = 0.1\nlaw = 'lognormal'\n")
    process = command("--port", "0", "--config", str(config))
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("provider-sim listening on http://127.0.0.1:")
    port = int(line.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /sim/config HTTP/1.1\r\nconnection: close\r\n\r\n")
        answer = b""
        while part := client.recv(65536):
            answer += part
    assert b'"lognormal"' in answer
    process.send_signal(how)
    assert process.wait(10) == 0
    process.communicate()


def test_the_command_refuses_with_one_line_and_2(tmp_path: Path) -> None:
    """A taken port, an unknown key, a missing or broken file: one clear line each, exit code 2."""
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    unknown = tmp_path / "unknown.json"
    unknown.write_text('{"rmp": 1}')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        cases = [
            (("--port", port), "in use"),
            (("--config", str(unknown)), "rmp"),
            (("--config", str(broken)), "not JSON"),
            (("--config", str(tmp_path / "none.toml")), "cannot read"),
        ]
        for arguments, told in cases:
            process = command(*arguments)
            _, errors = process.communicate(timeout=20)
            assert process.returncode == 2
            assert told in errors
            assert len(errors.strip().splitlines()) == 1
