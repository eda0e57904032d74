"""A server that speaks enough of the HTTP contract to try clients against, scripted per test. No Tollway within."""

import asyncio
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

KEY = "tw_" + "k" * 40
RUN_ID = "019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071"


def run_document(state: str = "queued", **more: Any) -> dict[str, Any]:
    """A run as the contract shows it."""
    return {
        "id": RUN_ID, "tenant": "default", "agent": "triage", "version": "1", "lane": "standard", "state": state,
        "blocked": None, "input": {"text": "hi"}, "output": None, "error": None, "attempt": 1, "metadata": {},
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "usage": {"llm_calls": 2, "steps": 3, "tool_calls": 0, "input_tokens": 90, "output_tokens": 40,
                  "cached_tokens": 0, "cost_usd": 0.0000375, "cost_nano": 37500},
        "degraded": [], "replay_of": None, "created_at": "2026-01-31T12:00:00.000Z", "predicted_start_at": None,
        "started_at": "2026-01-31T12:00:00.100Z", "ended_at": "2026-01-31T12:00:01.000Z", **more,
    }  # fmt: skip


def event(seq: int, type_: str, **data: Any) -> dict[str, Any]:
    """An event as the contract shows it."""
    return {
        "seq": seq,
        "type": type_,
        "at": f"2026-01-31T12:00:00.{seq:03}Z",
        "actor": {"kind": "worker", "id": "w1"},
        "data": data,
    }


def problem(status: int, code: str, **more: Any) -> dict[str, Any]:
    """A problem document."""
    return {
        "type": "about:blank",
        "title": code.replace("_", " "),
        "status": status,
        "code": code,
        "detail": "",
        **more,
    }


@dataclass
class Reply:
    """One scripted answer; `cut` ends the connection after the body without ending the answer."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any


def sse(*events: dict[str, Any]) -> bytes:
    """The events as a stream sends them; a token has no id."""
    text = ": hello\n\n"
    for item in events:
        ident = "" if item["type"] == "token" else f"id: {item['seq']}\n"
        shown = {k: v for k, v in item.items() if item["type"] != "token" or k != "seq"}
        text += f"{ident}event: {item['type']}\ndata: {json.dumps(shown)}\n\n"
    return text.encode()


class ContractServer:
    """Answers each route from its script, the last entry again and again; keeps what it saw."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.scripts: dict[str, deque[Reply]] = {}
        self.url = ""

    def on(self, route: str, *replies: Reply) -> None:
        """Script `METHOD /path`."""
        self.scripts[route] = deque(replies)

    def asked(self, route: str) -> list[Seen]:
        """The requests that came to `METHOD /path`."""
        return [seen for seen in self.seen if f"{seen.method} {seen.path}" == route]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        parsed = json.loads(body) if body else None
        self.seen.append(Seen(scope["method"], scope["path"], scope["query_string"].decode(), headers, parsed))
        if headers.get("authorization") != f"Bearer {KEY}":
            await self._reply(send, Reply(401, problem(401, "unauthenticated", detail="no such key")))
            return
        script = self.scripts.get(f"{scope['method']} {scope['path']}")
        if not script:
            await self._reply(send, Reply(404, problem(404, "not_found", detail="no such thing")))
            return
        await self._reply(send, script.popleft() if len(script) > 1 else script[0])

    async def _reply(self, send: Any, reply: Reply) -> None:
        raw = (
            reply.body
            if isinstance(reply.body, bytes)
            else b""
            if reply.body is None
            else json.dumps(reply.body).encode()
        )
        headers = {"content-type": "application/json", **reply.headers}
        if not reply.cut:
            headers["content-length"] = str(len(raw))
        listed = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": listed})
        await send({"type": "http.response.body", "body": raw, "more_body": reply.cut})
        if reply.cut:
            await asyncio.sleep(0.05)
            raise ConnectionResetError("cut on purpose")


@contextmanager
def serving() -> Iterator[ContractServer]:
    """A contract server on a free port, in a thread."""
    server = ContractServer()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        web = uvicorn.Server(uvicorn.Config(server, log_level="critical", lifespan="off", ws="none"))
        thread = threading.Thread(target=lambda: web.run(sockets=[listener]), daemon=True)
        thread.start()
        deadline = time.monotonic() + 10
        while not web.started and time.monotonic() < deadline:
            time.sleep(0.005)
        try:
            yield server
        finally:
            web.should_exit = True
            thread.join(10)
