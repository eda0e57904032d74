"""The demo's work: customers' messages as runs, in three lanes and for three tenants, and how far they have come."""

import asyncio
import csv
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tollway.client import ApiError, Client, RunView
from tollway.simulator import customers
from tollway.simulator.customers import Message

TENANTS = {"northbank": 3.0, "citybank": 1.0, "smallbank": 1.0}
_SAMPLE = Path(__file__).parent / "data" / "banking77_sample.csv"
_ARRIVALS_PER_S = 60.0
_ARRIVE_MIN_S, _ARRIVE_MAX_S = 3.0, 12.0
_SUBMITS_AT_ONCE = 64

with _SAMPLE.open(encoding="utf-8", newline="") as _file:
    _ROWS = list(csv.DictReader(_file))


@dataclass
class Work:
    """What was submitted and what is known of it. Times in seconds."""

    demo: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    intents: dict[str, str] = field(default_factory=dict)
    accept_s: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    runs: dict[str, RunView] = field(default_factory=dict)
    wanted: Counter[str] = field(default_factory=Counter)

    @property
    def accepted(self) -> int:
        """How many runs were accepted."""
        return len(self.intents)

    @property
    def final(self) -> int:
        """How many of them have ended."""
        return sum(run.final for run in self.runs.values())


def messages(count: int) -> list[Message]:
    """`count` messages: lanes mixed by share, tenants in turn, some of them repeated as in real traffic."""
    return customers.messages([row["text"] for row in _ROWS], list(TENANTS), count)


def intent(message: Message) -> str:
    """The intent that people gave a message."""
    return _ROWS[message.row]["category"]


async def submit_all(clients: dict[str, Client], every: Sequence[Message], work: Work) -> None:
    """Submit: the batch lane in bulk at once, the others one by one as they arrive, spread over some seconds."""
    work.wanted.update(message.lane for message in every)
    single = [message for message in every if message.lane != "batch"]
    arrive_s = min(_ARRIVE_MAX_S, max(_ARRIVE_MIN_S, len(single) / _ARRIVALS_PER_S))
    gate = asyncio.Semaphore(_SUBMITS_AT_ONCE)
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for tenant, client in clients.items():
            bulk = [message for message in every if message.lane == "batch" and message.tenant == tenant]
            group.create_task(_submit_bulk(client, bulk, work))
        for i, message in enumerate(single):
            await asyncio.sleep(max(0.0, began + arrive_s * i / len(single) - time.monotonic()))
            group.create_task(_submit_one(clients[message.tenant], message, work, gate))


async def refresh(admin: Client, work: Work) -> None:
    """Read how every run stands, over the same list anybody can ask for."""
    async for run in admin.list(metadata={"demo": work.demo}):
        work.runs[run.id] = run


async def _submit_bulk(client: Client, bulk: Sequence[Message], work: Work) -> None:
    results = await client.submit_many(
        {"agent": "triage", "input": _input(one), "lane": one.lane, "metadata": _metadata(one, work)} for one in bulk
    )
    for message, result in zip(bulk, results, strict=True):
        if isinstance(result, ApiError):
            work.refused[result.code] += 1
        else:
            work.intents[result.id] = intent(message)


async def _submit_one(client: Client, message: Message, work: Work, gate: asyncio.Semaphore) -> None:
    async with gate:
        began = time.perf_counter()
        try:
            run = await client.submit("triage", _input(message), lane=message.lane, metadata=_metadata(message, work))
        except ApiError as error:
            work.refused[error.code] += 1
            return
        work.accept_s.append(time.perf_counter() - began)
        work.intents[run.id] = intent(message)


def _input(message: Message) -> dict[str, str]:
    return {"text": message.text, "customer": message.customer}


def _metadata(message: Message, work: Work) -> dict[str, str]:
    return {"demo": work.demo, "task_type": "triage"}
