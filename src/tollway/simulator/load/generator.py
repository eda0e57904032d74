"""Clients that submit a run, poll it until it is final, and repeat (closed loop) or start on time (open loop).

It shares the machine with what it measures, so it is cheap: one protocol object a client on a keep-alive connection,
no task and no timer of its own per request. Every answer is accounted for; a run counts as done only once seen final.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from tollway.domain.words import FINAL_STATES, RunState
from tollway.simulator.load.client import Client, Wheel
from tollway.simulator.load.latency import Latency
from tollway.simulator.load.plan import EXAMPLES_MAX, LoadPlan, LoadResult, RunSeen, Tally
from tollway.simulator.load.wire import (
    Answer,
    Requests,
    epoch_s,
    retry_after_s,
    run_calls,
    run_id,
    run_state,
    run_time,
    says_when,
)

Mark = Literal["begin", "end"]

_SURPRISE_WAIT_S = 1.0
_RECONNECT_S = 0.1


class LoadGenerator:
    """Carries out one plan, once."""

    def __init__(
        self,
        plan: LoadPlan,
        on_mark: Callable[[Mark], None] = lambda _: None,
        on_progress: Callable[[int, int, int], None] = lambda *_: None,
    ) -> None:
        serial = plan.first_serial if plan.numbered else None
        self.requests = Requests(f"{plan.host}:{plan.port}", plan.api_key, plan.agent, plan.texts, serial)
        self.stopping = False
        self._plan = plan
        self._on_mark = on_mark
        self._on_progress = on_progress
        self._clients: list[Client] = []
        self._idle: deque[Client] = deque()
        self._waiting: deque[float] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._drained = asyncio.Event()
        self._busy = 0
        self._closed = False
        self._window = (float("inf"), float("inf"))
        self._stop_epoch_s = 0.0
        self._tally = Tally()

    async def run(self) -> LoadResult:
        """Load, measure, stop, and wait until every accepted run is final or `drain_s` is over.

        Raises OSError when nothing listens at the beginning.
        """
        self._loop = asyncio.get_running_loop()
        self._wheel = Wheel(self._loop)
        plan, tally = self._plan, self._tally
        try:
            await self._connect_all()
            start = time.monotonic()
            self._window = (start + plan.warmup_s, start + plan.warmup_s + plan.measure_s)
            self._schedule(start)
            self._progress()
            await self._until(self._window[0])
            self._on_mark("begin")
            before, began = (tally.finished, tally.exchanges), time.monotonic()
            await self._until(self._window[1])
            self._on_mark("end")
            finished, exchanges = tally.finished - before[0], tally.exchanges - before[1]
            window_s = time.monotonic() - began
            drained_s = await self._drain()
            return self._result(window_s, finished, exchanges, drained_s)
        finally:
            await self._close()

    def submit_answered(self, client: Client, answer: Answer) -> None:
        """A submit came back: accepted, refused for now, or a surprise."""
        tally, now = self._tally, time.monotonic()
        tally.exchanges += 1
        if answer.status == 202:
            client.run = run_id(answer.body)
            client.wants_run = False
            tally.accepted += 1
            if self._window[0] <= client.due_at < self._window[1]:
                tally.accepts.append(now - client.due_at)
            self._wheel.wake(client, self._plan.poll_s)
        else:
            self._not_served(client, "submit", answer)

    def poll_answered(self, client: Client, answer: Answer) -> None:
        """A poll came back: final, not yet, refused for now, or a surprise."""
        tally = self._tally
        tally.exchanges += 1
        if answer.status != 200:
            self._not_served(client, "poll", answer)
            return
        state = run_state(answer.body)
        if state not in FINAL_STATES:
            self._wheel.wake(client, self._plan.poll_s)
            return
        times = (run_time(answer.body, b"created_at"), run_time(answer.body, b"ended_at"))
        calls = run_calls(answer.body)
        tally.finished += 1
        tally.calls += calls
        tally.without_call += not calls
        tally.finals[state] += 1
        if self._plan.keep_runs:
            tally.runs.append((*times, calls))
        if state is not RunState.SUCCEEDED:
            tally.example(f"run {state}", answer.body)
        if self.stopping:
            tally.ended_late.append(times[1])
        if self._window[0] <= client.due_at < self._window[1]:
            tally.times.append(times)
            tally.seen.append(time.monotonic() - client.due_at)
        self._release(client)

    def surprise(self, client: Client, what: str, body: bytes) -> None:
        """Something outside the contract came back; the client tries again in a while."""
        self._tally.unexpected[what] += 1
        self._tally.example(what, body)
        self._wheel.wake(client, _SURPRISE_WAIT_S)

    def too_late(self, client: Client) -> None:
        """A run that was refused or cut, or had no connection, is not submitted any more once clients stop."""
        self._tally.unsent += 1
        self._release(client)

    def disconnected(self, client: Client, cut_submit: bool) -> None:
        """A connection was cut; come back unless the job is over. An unanswered submit may have counted."""
        if self._closed:
            return
        self._tally.disconnects += 1
        if cut_submit:
            self._tally.unanswered += 1
        self.reconnect(client)

    def reconnect(self, client: Client) -> None:
        """Open the client's next connection, in a while, unless the job is over."""
        if self._closed:
            return
        task = self._loop.create_task(self._reconnect(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _release(self, client: Client) -> None:
        """A client has nothing more to do with its run: give it the next one, or let it rest."""
        client.run = None
        client.wants_run = False
        self._busy -= 1
        if self.stopping:
            if self._busy == 0:
                self._drained.set()
        elif self._plan.rate_per_s == 0:
            self._begin(client, time.monotonic())
        elif self._waiting:
            self._begin(client, self._waiting.popleft())
        else:
            self._idle.append(client)

    def _not_served(self, client: Client, verb: str, answer: Answer) -> None:
        if answer.status in (429, 503):
            self._tally.refused[f"{verb} {answer.status}"] += 1
            self._tally.example(f"{verb} {answer.status}", answer.body)
            if not says_when(answer.head):
                self._tally.unexpected[f"{verb} {answer.status} without Retry-After"] += 1
            if self._plan.gives_up and verb == "submit":
                self._release(client)
            else:
                self._wheel.wake(client, retry_after_s(answer.head))
        else:
            self.surprise(client, f"{verb} {answer.status}", answer.body)

    def _begin(self, client: Client, due_at: float) -> None:
        self._busy += 1
        client.begin(due_at)

    def _schedule(self, start: float) -> None:
        plan = self._plan
        if plan.rate_per_s:
            self._idle.extend(self._clients)
            self._arrivals = random.Random(plan.seed)
            self._arrive(start, 0, start)
            return
        for n, client in enumerate(self._clients):
            at = self._loop.time() + plan.ramp_s * n / len(self._clients)
            self._timers.append(self._loop.call_at(at, self._start_client, client))

    def _start_client(self, client: Client) -> None:
        if not self.stopping:
            self._begin(client, time.monotonic())

    def _arrive(self, start: float, n: int, due_at: float) -> None:
        """Open loop: run `n` falls at an even pace, anywhere within its own gap."""
        while not self.stopping:
            wait_s = due_at - time.monotonic()
            if wait_s > 0:
                self._timers[:] = [self._loop.call_later(wait_s, self._arrive, start, n, due_at)]
                return
            if self._idle:
                self._begin(self._idle.popleft(), due_at)
            else:
                self._waiting.append(due_at)
            n += 1
            due_at = start + (n + self._arrivals.random()) / self._plan.rate_per_s

    async def _connect_all(self) -> None:
        self._clients = [Client(self) for _ in range(self._plan.clients)]
        for first in range(0, len(self._clients), 64):
            await asyncio.gather(*(self._connect(client) for client in self._clients[first : first + 64]))

    async def _connect(self, client: Client) -> None:
        await self._loop.create_connection(lambda: client, self._plan.host, self._plan.port)

    async def _reconnect(self, client: Client) -> None:
        while not self._closed:
            await asyncio.sleep(_RECONNECT_S)
            with suppress(OSError):
                await self._connect(client)
                return

    def _progress(self) -> None:
        if self._closed:
            return
        self._on_progress(self._tally.accepted, self._tally.finished, self._busy)
        self._loop.call_later(1.0, self._progress)

    async def _until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - time.monotonic()))

    async def _drain(self) -> float:
        self.stopping = True
        self._stop_epoch_s = time.time()
        began = time.monotonic()
        self._tally.unsent += len(self._waiting)
        self._waiting.clear()
        if self._busy:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._plan.drain_s):
                    await self._drained.wait()
        return time.monotonic() - began

    async def _close(self) -> None:
        self._closed = self.stopping = True
        self._wheel.stop()
        for timer in self._timers:
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients:
            client.close()
        await asyncio.sleep(0)

    def _result(self, window_s: float, finished: int, exchanges: int, drained_s: float) -> LoadResult:
        tally = self._tally
        spans = [epoch_s(ended) - epoch_s(created) for created, ended in tally.times]
        lost = [client.run.decode() for client in self._clients if client.run is not None]
        return LoadResult(
            window_s=round(window_s, 3),
            finished_in_window=finished,
            runs_per_s=round(finished / window_s, 1),
            exchanges_in_window=exchanges,
            accept=Latency.of(tally.accepts),
            seen_final=Latency.of(tally.seen),
            end_to_end=Latency.of(spans),
            overhead=Latency.of([span - self._plan.provider_s for span in spans]),
            accepted=tally.accepted,
            finals=dict(tally.finals),
            lost=len(lost),
            lost_examples=lost[:EXAMPLES_MAX],
            unsent=tally.unsent,
            unanswered_submits=tally.unanswered + sum(client.awaits_accept for client in self._clients),
            refused=dict(tally.refused),
            unexpected=dict(tally.unexpected),
            examples=tally.examples,
            disconnects=tally.disconnects,
            backlog=sum(epoch_s(ended) > self._stop_epoch_s for ended in tally.ended_late) + len(lost),
            drained_s=round(drained_s, 3),
            calls=tally.calls,
            without_call=tally.without_call,
            runs=[RunSeen(epoch_s(created), epoch_s(ended), calls) for created, ended, calls in tally.runs],
        )
