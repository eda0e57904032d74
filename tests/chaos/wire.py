"""The least of an HTTP client: one request on one connection, nothing retried, nothing hidden."""

import asyncio
import contextlib
import json
import socket
from dataclasses import dataclass
from typing import Any


class Cut(Exception):
    """The connection was refused, or ended without a whole answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: Any


async def ask(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout_s: float = 10.0
) -> Answer:
    """Ask a server on this machine. Raises Cut."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _ask(port, method, path, body, headers or {})
    except (OSError, EOFError, TimeoutError, ValueError) as error:
        raise Cut(f"{method} {path}: {type(error).__name__} {error}") from error


async def _ask(port: int, method: str, path: str, body: Any, headers: dict[str, str]) -> Answer:
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{port}", "connection: close"]
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        length = found.get("content-length")
        said = await reader.readexactly(int(length)) if length is not None else await reader.read()
        return Answer(int(head[0].split()[1]), found, json.loads(said) if said else None)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
