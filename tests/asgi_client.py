"""A client that calls an ASGI app directly: one request, one whole answer."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any


@dataclass
class Answer:
    """Status, headers by lower-case name, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The problem's code."""
        code: str = self.json["code"]
        return code


class AsgiClient:
    """Sends requests with default headers."""

    def __init__(self, app: Any, key: str | None = None, **headers: str) -> None:
        self.app = app
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            self.headers["authorization"] = f"Bearer {key}"

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        """One request; `body` is sent as JSON, `raw` as it is."""
        messages = [message async for message in self.stream(method, path, body, headers=headers, raw=raw)]
        start, parts = messages[0], [message.get("body", b"") for message in messages[1:]]
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], found, b"".join(parts))

    async def stream(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """The answer's messages as they come; leaving early is a disconnect."""
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        sent = {**self.headers, **(headers or {})}
        if content and "content-type" not in sent:
            sent["content-type"] = "application/json"
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in sent.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        outgoing: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        incoming.put_nowait({"type": "http.request", "body": content, "more_body": False})

        async def call() -> None:
            try:
                await self.app(scope, incoming.get, outgoing.put)
            finally:
                outgoing.put_nowait(None)

        task = asyncio.create_task(call())
        try:
            while (message := await outgoing.get()) is not None:
                yield message
            await task
        finally:
            incoming.put_nowait({"type": "http.disconnect"})
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return await self.send("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        """POST JSON."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.send("POST", path, body, headers=given)

    async def put(self, path: str, body: Any = None, **headers: str) -> Answer:
        """PUT JSON."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.send("PUT", path, body, headers=given)
