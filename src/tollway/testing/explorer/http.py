"""A client that never retries and never hides anything: one request, one connection, one answer or OSError."""

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any

_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: status, headers (names in lower case), JSON document."""

    status: int
    headers: dict[str, str]
    document: Any


async def ask(port: int, method: str, path: str, *, key: str, body: Any = None, headers: str = "") -> Answer:
    """One request to 127.0.0.1. Raises OSError for whatever kept a whole answer from coming."""
    payload = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n{headers}"
        f"content-type: application/json\r\ncontent-length: {len(payload)}\r\nconnection: close\r\n\r\n"
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return await _exchange(port, head.encode() + payload)
    except (TimeoutError, ValueError, EOFError) as error:
        raise ConnectionError(f"no whole answer: {error!r}") from error


async def _exchange(port: int, request: bytes) -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        return Answer(int(head[0].split()[1]), headers, json.loads(body))
    except KeyError as error:
        raise ValueError("an answer without content-length") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
