"""Runs by the thousand: submitted in batches, and read back from the lists with their times and their cost."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from tollway.simulator.bench.asking import Refused, ask
from tollway.simulator.bench.stack import Stack

_BATCH = 500
_PAGE = 500
_AGAIN_S, _INSIST_S = 0.5, 60.0


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run as a list shows it; times in epoch seconds, None where they are not known."""

    tenant: str
    state: str
    cost_nano: int
    created_s: float
    predicted_s: float | None
    started_s: float | None
    ended_s: float | None


async def submit(stack: Stack, key: str, runs: Sequence[dict[str, Any]]) -> int:
    """Submit these bodies with that key, a batch after the other; returns how many were accepted.

    A batch that is refused as a whole is tried again for a while; a run that is refused in its batch is not.
    """
    accepted = 0
    for first in range(0, len(runs), _BATCH):
        answer = await _insist(stack, key, {"runs": runs[first : first + _BATCH]})
        accepted += sum(1 for result in answer["results"] if result["status"] == 202)
    return accepted


async def _insist(stack: Stack, key: str, body: dict[str, Any]) -> Any:
    stop = time.monotonic() + _INSIST_S
    while True:
        try:
            return await ask(stack.port, "/v1/runs/batch", "POST", body, key)
        except Refused:
            if time.monotonic() > stop:
                raise
        await asyncio.sleep(_AGAIN_S)


async def read_runs(stack: Stack, **filters: str) -> list[RunLine]:
    """Every run that passes the filters of `GET /v1/runs`, newest first."""
    found: list[RunLine] = []
    cursor: str | None = None
    while True:
        query = {**filters, "limit": str(_PAGE), **({"cursor": cursor} if cursor else {})}
        page = await stack.ask(f"/v1/runs?{urlencode(query)}")
        found += [_line(document) for document in page["items"]]
        cursor = page["next"]
        if cursor is None:
            return found


def _line(document: dict[str, Any]) -> RunLine:
    return RunLine(
        tenant=document["tenant"],
        state=document["state"],
        cost_nano=document["usage"]["cost_nano"],
        created_s=datetime.fromisoformat(document["created_at"]).timestamp(),
        predicted_s=_epoch_s(document["predicted_start_at"]),
        started_s=_epoch_s(document["started_at"]),
        ended_s=_epoch_s(document["ended_at"]),
    )


def _epoch_s(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()
