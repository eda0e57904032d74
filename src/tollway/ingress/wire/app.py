"""The wire as a raw ASGI app, and nothing but the wire: whoever calls it has looked at the path.

A client that goes away cancels what was begun for it. A stream is read from the provider only as fast as its client
takes it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import aclosing
from typing import Any, TypeVar

from tollway.domain.errors import Problem
from tollway.ingress.problems import Reply, too_large
from tollway.ingress.wire.desk import WIRE_FIELDS, WireHead
from tollway.ingress.wire.door import FORMS, MODELS_PATH, Door, Order, Streamed
from tollway.ingress.wire.faults import cut_off

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
T = TypeVar("T")

_MODEL_PREFIX = MODELS_PATH + "/"


class Gone(Exception):
    """The client went away."""


def on_the_wire(path: str) -> bool:
    """Whether a path is the wire's."""
    return path in FORMS or path == MODELS_PATH or path.startswith(_MODEL_PREFIX)


class WireApp:
    """Serves the wire over ASGI."""

    def __init__(self, door: Door) -> None:
        self._door = door

    @property
    def door(self) -> Door:
        """The door itself, for a transport that needs no ASGI."""
        return self._door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; its path is `on_the_wire`."""
        path, method = scope["path"], scope["method"]
        head = wire_head(scope)
        try:
            if path not in FORMS:
                await _send(send, self._models(path, method, head))
            elif method != "POST":
                await _send(send, self._wrong_method(path, method, "POST"))
            else:
                await self._ask(path, head, receive, send)
        except Gone:
            return

    async def _ask(self, path: str, head: WireHead, receive: Receive, send: Send) -> None:
        door = self._door
        try:
            order = door.take(path, head, await read_body(receive, door.options.body_bytes_max))
        except Gone:
            raise
        except Exception as error:
            await _send(send, door.refusal(error, FORMS[path]))
            return
        if order.request.stream:
            await _unless_gone(self._stream(order, send), receive)
            return
        try:
            reply = await _unless_gone(door.answer(order), receive)
        except asyncio.CancelledError:
            await _send(send, door.refusal(cut_off(), order.form, order.account))
            raise
        await _send(send, reply)

    async def _stream(self, order: Order, send: Send) -> None:
        answer = await self._door.stream(order)
        if not isinstance(answer, Streamed):
            await _send(send, answer)
            return
        async with aclosing(answer):
            await send({"type": "http.response.start", "status": 200, "headers": answer.headers})
            async for chunk in answer.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _models(self, path: str, method: str, head: WireHead) -> Reply:
        if method not in ("GET", "HEAD"):
            return self._wrong_method(path, method, "GET, HEAD")
        return self._door.models(head, path.removeprefix(_MODEL_PREFIX) if path != MODELS_PATH else None)

    def _wrong_method(self, path: str, method: str, allowed: str) -> Reply:
        detail = f"{path[:200]} does not take {method}; it takes {allowed}."
        problem = Problem("method_not_allowed", detail, headers={"Allow": allowed})
        return self._door.refusal(problem, FORMS.get(path, FORMS["/v1/chat/completions"]))


def wire_head(scope: Scope) -> WireHead:
    """The headers the wire looks at."""
    head = WireHead()
    for name, value in scope["headers"]:
        field = WIRE_FIELDS.get(name)
        if field is not None:
            setattr(head, field, value)
    return head


async def read_body(receive: Receive, bytes_max: int) -> bytes:
    """The whole body, never more of it than the bound. Raises Problem `too_large`, Gone."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > bytes_max:
            raise too_large(bytes_max)
        parts.append(part)
        more = bool(message.get("more_body"))
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _unless_gone(doing: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Its result; it is cancelled, to its end, when the client goes away (Gone) or this task is cancelled."""
    loop = asyncio.get_running_loop()
    work, watch = loop.create_task(doing), loop.create_task(_disconnected(receive))
    try:
        await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise Gone
    finally:
        for task in (work, watch):
            if not task.done():
                task.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, reply: Reply) -> None:
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await send({"type": "http.response.body", "body": reply.body})
