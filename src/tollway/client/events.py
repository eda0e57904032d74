"""Follows the events of one run through cut connections, each stored event given out once and in order."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import quote

import msgspec

from tollway.client.errors import ApiError, Unreachable
from tollway.client.sse import Message, SseParser
from tollway.client.transport import Call, Transport, backoff_s
from tollway.client.views import FINAL, RunEvent, as_event

_FOR_NOW = (429, 502, 503, 504)


async def follow(transport: Transport, run_id: str, after: int) -> AsyncGenerator[RunEvent, None]:
    """The events with a number above `after`, up to the one that ends the run; tokens as they come.

    A cut stream is asked for again with `Last-Event-ID`. Raises Unreachable when no stream could be had for
    `resume_for_s`, ApiError for a refusal.
    """
    last = after
    failures = 0
    found_final = False
    deadline = time.monotonic() + transport.options.resume_for_s
    while True:
        progressed = False
        try:
            async with aclosing(_stream(transport, run_id, last)) as stream:
                async for event in stream:
                    deadline = time.monotonic() + transport.options.resume_for_s
                    if event is None or (event.seq is not None and event.seq <= last):
                        continue
                    progressed = True
                    last = event.seq or last
                    yield event
                    if event.final:
                        return
            if not progressed and found_final:
                return
            found_final = not progressed and await _is_final(transport, run_id)
        except (ApiError, Unreachable) as error:
            if time.monotonic() > deadline or (isinstance(error, ApiError) and error.status not in _FOR_NOW):
                raise
        failures = 0 if progressed else failures + 1
        if not found_final:
            await asyncio.sleep(backoff_s(failures))


async def _stream(transport: Transport, run_id: str, last: int) -> AsyncGenerator[RunEvent | None, None]:
    """None once the stream stands, then its events."""
    headers = {"accept": "text/event-stream"}
    if last:
        headers["last-event-id"] = str(last)
    parser = SseParser()
    async with transport.stream(Call("GET", f"/v1/runs/{quote(run_id, safe='')}/events", headers=headers)) as response:
        yield None
        while (chunk := await response.body_reader.read_chunk()) is not None:
            for message in parser.feed(bytes(chunk)):
                yield _event(message)


def _event(message: Message) -> RunEvent:
    """An event's document as it stands in `data`; what it leaves out is taken from the stream's own fields."""
    data = msgspec.json.decode(message.data)
    whole = isinstance(data, dict) and "type" in data
    document = dict(data) if whole else {"data": data}
    document.setdefault("type", message.event)
    if message.id.isdigit():
        document.setdefault("seq", int(message.id))
    return as_event(document)


async def _is_final(transport: Transport, run_id: str) -> bool:
    answer = await transport.send(Call("GET", f"/v1/runs/{quote(run_id, safe='')}"))
    return answer.json().get("state") in FINAL
