"""One HTTP request on a connection of its own, as the benchmark asks its stack now and then."""

import asyncio
from typing import Any

import msgspec

from tollway.simulator.load.wire import BadAnswer, read_answer

_ASK_S = 30.0
_REFUSALS = (429, 503)


class Refused(BadAnswer):
    """The API answered 429 or 503: not now."""


async def ask(port: int, path: str, method: str = "GET", body: Any = None, key: str = "") -> Any:
    """The JSON of a 2xx answer, with the API key `key`. Raises OSError, BadAnswer (of it Refused) for anything else."""
    content = b"" if body is None else msgspec.json.encode(body)
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: close"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    async with asyncio.timeout(_ASK_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write("\r\n".join((*lines, "", "")).encode() + content)
            parts: list[bytes] = []
            while more := await reader.read(1 << 20):
                parts.append(more)
        finally:
            writer.close()
    answer = read_answer(b"".join(parts))
    if answer is None:
        raise BadAnswer("the connection ended early")
    if not 200 <= answer.status < 300:
        kind = Refused if answer.status in _REFUSALS else BadAnswer
        raise kind(f"{path} answered {answer.status}: {answer.body[:300].decode('utf-8', 'replace')}")
    try:
        return msgspec.json.decode(answer.body) if answer.body else None
    except msgspec.DecodeError as error:
        raise BadAnswer(f"{path} answered no JSON: {error}") from error
