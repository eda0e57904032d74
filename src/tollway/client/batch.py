"""Submits many runs in few requests, in the order given, trying again those that were refused only for now."""

import asyncio
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from tollway.client.errors import ApiError
from tollway.client.transport import Call, Transport, backoff_s, encode
from tollway.client.views import RunView, as_run

_BATCH_RUNS_MAX = 1_000
_BATCH_BYTES_MAX = 1_000_000
_FOR_NOW = (429, 503)


async def submit_all(transport: Transport, runs: Sequence[Mapping[str, Any]]) -> list[RunView | ApiError]:
    """One result a run: accepted, or why not. Raises ApiError when a whole request is refused, Unreachable."""
    lines = [encode({"idempotency_key": uuid.uuid4().hex, **run}) for run in runs]
    results: list[RunView | ApiError] = []
    for chunk in _chunks(lines):
        results.extend(await _submit_chunk(transport, chunk))
    return results


async def _submit_chunk(transport: Transport, lines: Sequence[bytes]) -> list[RunView | ApiError]:
    deadline = time.monotonic() + transport.options.retry_for_s
    results = await _send(transport, lines)
    for attempt in count():
        again = [i for i, result in enumerate(results) if isinstance(result, ApiError) and result.status in _FOR_NOW]
        pause_s = backoff_s(attempt)
        if not again or time.monotonic() + pause_s > deadline:
            break
        await asyncio.sleep(pause_s)
        for i, result in zip(again, await _send(transport, [lines[i] for i in again]), strict=True):
            results[i] = result
    return results


async def _send(transport: Transport, lines: Sequence[bytes]) -> list[RunView | ApiError]:
    body = b'{"runs":[' + b",".join(lines) + b"]}"
    answer = await transport.send(Call("POST", "/v1/runs/batch", body=body))
    results = answer.json()["results"]
    if len(results) != len(lines):
        detail = f"{len(lines)} runs were sent and {len(results)} results came back"
        raise ApiError({"title": "The answer is not Tollway's", "detail": detail}, status=answer.status)
    return [_result(result) for result in results]


def _result(result: Mapping[str, Any]) -> RunView | ApiError:
    run = result.get("run")
    return as_run(run) if run is not None else ApiError(result.get("error") or {}, status=int(result["status"]))


def _chunks(lines: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Slices of at most 1,000 runs and, unless one run alone is larger, 1 MB."""
    start, size = 0, 0
    for i, line in enumerate(lines):
        if i > start and (i - start == _BATCH_RUNS_MAX or size + len(line) > _BATCH_BYTES_MAX):
            yield lines[start:i]
            start, size = i, 0
        size += len(line)
    if start < len(lines):
        yield lines[start:]
