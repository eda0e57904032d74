"""The load generator against a small server of the contract's forms, well-behaved and not."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tollway.simulator.load import LoadGenerator, LoadPlan, LoadResult

RUN_S = 0.02


def _time(epoch_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_s)) + f".{int(epoch_s * 1000) % 1000:03d}Z"


class Server:
    """Accepts runs and ends them `run_s` later; `quirk(verb, count)` may answer in its stead, or cut with None."""

    def __init__(self, quirk: Callable[[str, int], bytes | None] | None = None, run_s: float = RUN_S) -> None:
        self.submitted: list[float] = []
        self.texts: set[str] = set()
        self.final = "succeeded"
        self.calls = 1
        self._quirk = quirk or (lambda _verb, _count: b"")
        self._run_s = run_s
        self._counts = {"POST": 0, "GET": 0}
        self.serving: list[asyncio.Task[None]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.append(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next((int(line[16:]) for line in head.split("\r\n") if line.startswith("Content-Length: ")), 0)
                answer = self._answer(head, await reader.readexactly(length))
                if answer is None:
                    return
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, head: str, body: bytes) -> bytes | None:
        verb, path, _ = head.split(" ", 2)
        self._counts[verb] += 1
        quirk = self._quirk(verb, self._counts[verb])
        if quirk != b"":
            return quirk
        if verb == "POST":
            self.texts.add(json.loads(body)["input"]["text"])
            self.submitted.append(time.time())
            return answer(202, {"id": f"0190aaaa-0000-7000-8000-{len(self.submitted) - 1:012d}", "state": "queued"})
        began = self.submitted[int(path[-12:])]
        run: dict[str, Any] = {
            "id": path[-36:],
            "state": "running",
            "created_at": _time(began),
            "usage": {"llm_calls": 1},
        }
        if time.time() >= began + self._run_s:
            run |= {"state": self.final, "ended_at": _time(began + self._run_s), "usage": {"llm_calls": self.calls}}
        return answer(200, run)


def answer(status: int, document: object, extra: str = "") -> bytes:
    body = json.dumps(document).encode()
    return f"HTTP/1.1 {status} X\r\n{extra}content-length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def listening(server: Server) -> AsyncIterator[int]:
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await asyncio.gather(*server.serving)


async def load(server: Server, **wishes: Any) -> LoadResult:
    usual: dict[str, Any] = {
        "clients": 8,
        "ramp_s": 0.05,
        "warmup_s": 0.1,
        "measure_s": 0.5,
        "poll_s": 0.02,
        "drain_s": 5,
    }
    async with listening(server) as port:
        plan = LoadPlan(port=port, api_key="tw_x", agent="a", texts=["one", "two"], **(usual | wishes))
        return await LoadGenerator(plan).run()


async def test_a_closed_loop_accounts_for_every_run() -> None:
    """All that was accepted is seen to succeed, every text is unique, and latencies are those of the server."""
    server = Server()
    result = await load(server)
    assert result.clean
    assert result.accepted == len(server.submitted) == len(server.texts)
    assert 0 < result.finished_in_window <= result.accepted
    assert result.accept.count == result.end_to_end.count == result.seen_final.count > 0
    assert RUN_S * 1000 - 2 <= result.end_to_end.p50 <= result.seen_final.p99
    assert result.lost == 0
    assert result.backlog <= 8


async def test_runs_are_kept_one_by_one_where_asked() -> None:
    """Each run's times and calls are told, calls summed, runs without one counted; texts as they are, if asked."""
    server = Server()
    result = await load(server, keep_runs=True, numbered=False)
    assert len(result.runs) == result.succeeded == result.calls
    assert result.without_call == 0
    assert all(run.calls == 1 and run.ended_s - run.created_s == pytest.approx(RUN_S, abs=0.002) for run in result.runs)
    assert server.texts == {"one", "two"}
    server.calls = 0
    again = await load(server)
    assert (again.calls, again.without_call, again.runs) == (0, again.succeeded, [])


async def test_an_open_loop_keeps_its_pace() -> None:
    """Runs start at the asked rate however long each lasts, and latencies count from when they were due."""
    server = Server(run_s=0.2)
    result = await load(server, rate_per_s=100, clients=60, warmup_s=0.2, measure_s=1.0)
    assert result.clean
    assert 115 <= result.accepted <= 121
    assert result.accept.count == pytest.approx(100, abs=2)


async def test_runs_that_wait_for_a_connection_pay_for_the_wait() -> None:
    """With a single connection the queue in front of it is part of accept latency."""
    result = await load(Server(run_s=0.05), rate_per_s=100, clients=1, warmup_s=0, measure_s=0.6)
    assert result.clean
    assert result.accept.max > 250
    assert result.unsent > 10


async def test_refusals_are_honoured_and_counted() -> None:
    """429 and 503 with a wish to wait are waited for and asked again; nothing is lost or unexpected."""

    def quirk(verb: str, count: int) -> bytes:
        if count % 5 == 0:
            return (
                answer(429, {}, "Retry-After: 1\r\nretry-after-ms: 10\r\n")
                if verb == "POST"
                else answer(503, {}, "retry-after: 0\r\n")
            )
        return b""

    result = await load(Server(quirk))
    assert result.clean
    assert set(result.refused) == {"submit 429", "poll 503"}


async def test_clients_may_give_up_when_refused() -> None:
    """A run that is refused is not tried again, and the pace of the others is kept."""

    def every_other(verb: str, count: int) -> bytes:
        return answer(429, {}, "Retry-After: 1\r\n") if verb == "POST" and count % 2 else b""

    server = Server(every_other)
    result = await load(server, rate_per_s=100, clients=30, gives_up=True)
    assert result.clean
    assert result.refused["submit 429"] == pytest.approx(result.accepted, abs=1)
    assert result.unsent == 0


async def test_a_refusal_that_does_not_say_when_is_a_surprise() -> None:
    """429 and 503 without Retry-After are outside the contract, whether or not they are tried again."""
    server = Server(lambda verb, count: answer(429, {}) if verb == "POST" and count == 1 else b"")
    result = await load(server, rate_per_s=50, gives_up=True)
    assert result.unexpected == {"submit 429 without Retry-After": 1}


async def test_a_cut_connection_is_opened_again() -> None:
    """Submits cut before their answer are told apart, and accepted runs are followed on a new connection."""
    result = await load(Server(lambda _verb, count: None if count % 20 == 0 else b""))
    assert result.lost == 0
    assert result.succeeded == result.accepted > 0
    assert result.disconnects > result.unanswered_submits > 0


async def test_an_announced_end_of_a_connection_is_no_cut() -> None:
    """`connection: close` makes the client open another connection and is held against nobody."""

    def quirk(verb: str, count: int) -> bytes:
        return answer(503, {}, "connection: close\r\nretry-after: 0\r\n") if count % 9 == 0 else b""

    result = await load(Server(quirk))
    assert result.clean
    assert result.disconnects == result.unanswered_submits == 0


async def test_a_server_that_falls_silent_leaves_unanswered_submits() -> None:
    """Submits never answered in full are told, and the job ends in its time."""
    result = await load(Server(lambda _verb, _count: b"HTTP/1.1 202"), clients=3, measure_s=0.1, drain_s=0.1)
    assert (result.accepted, result.unanswered_submits, result.lost) == (0, 3, 0)
    assert not result.clean


async def test_surprises_come_with_an_example() -> None:
    """A status outside the contract, or garbage, makes the result unclean and is shown."""

    def quirk(verb: str, count: int) -> bytes:
        return {("POST", 3): answer(500, {"detail": "ouch"}), ("GET", 4): b"SSH-2.0\r\n\r\n"}.get((verb, count), b"")

    result = await load(Server(quirk), measure_s=1.5)
    assert not result.clean
    assert result.unexpected == {"submit 500": 1, "unreadable answer": 1}
    assert "ouch" in result.examples["submit 500"][0]
    assert result.lost == 0


async def test_lost_runs_are_named_and_the_job_still_ends() -> None:
    """Runs that never become final are lost: counted, named, part of the backlog, within the time limit."""
    result = await load(Server(run_s=3600), clients=3, drain_s=0.2)
    assert (result.accepted, result.lost, result.backlog, result.succeeded) == (3, 3, 3, 0)
    assert len(result.lost_examples) == 3
    assert not result.clean


async def test_runs_that_fail_are_told_by_state() -> None:
    """A final state other than succeeded is not clean, and one such run is shown."""
    server = Server()
    server.final = "dead"
    result = await load(server)
    assert result.finals == {"dead": result.accepted}
    assert not result.clean
    assert "run dead" in result.examples


async def test_nobody_listening_is_an_error() -> None:
    """A port without a server raises instead of measuring nothing."""
    async with listening(Server()) as port:
        pass
    with pytest.raises(OSError):
        await LoadGenerator(LoadPlan(port=port, api_key="tw_x", agent="a", texts=["x"], clients=2)).run()
