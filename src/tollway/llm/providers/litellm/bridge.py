"""Calls made by litellm, one request each, its retries and fallbacks off: implements `Channel`.

The library tells little of how a call failed: an answer that cannot be read may be an error of 500 to it, or an empty
answer. So only errors of 4xx are taken to be unbilled, and a stream that says nothing is a bad response.
"""

import asyncio
import contextlib
import importlib
import os
from typing import Any

import msgspec

from tollway.domain.errors import LlmError
from tollway.llm.providers.wire import shorten
from tollway.llm.transport import Answer, TransportOptions, retry_after


class Bridge:
    """Posts bodies of chat completions. The library is loaded when this is made; that takes seconds."""

    def __init__(self, base_url: str, key: str | None, options: TransportOptions) -> None:
        """Raises ImportError without the extra `litellm`."""
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")  # else it downloads a list of prices
        self._library = _load()
        self._library.telemetry = False
        self._library.suppress_debug_info = True
        self._fixed = {"api_base": base_url or None, "api_key": key, "num_retries": 0, "max_retries": 0}

    async def start(self) -> None:
        """Nothing: the library keeps its own connections."""

    async def stop(self) -> None:
        """Nothing."""

    async def post(
        self, body: bytes, call_id: str, timeout_s: float, first_byte_s: float | None, path: str = ""
    ) -> Answer:
        """Make the call and wait for the whole answer. Raises LlmError."""
        exchange = self.open(body, call_id, timeout_s, path)
        try:
            whole = await exchange.first(first_byte_s)
            return Answer(exchange.status, whole or b"", exchange.retry_after_s, exchange.fields)
        finally:
            await exchange.close()

    def open(self, body: bytes, call_id: str, timeout_s: float, path: str = "") -> "Exchange":
        """An exchange not yet begun."""
        asked = {**msgspec.json.decode(body), **self._fixed, "timeout": timeout_s}
        asked["extra_headers"] = {"x-tollway-call-id": call_id}
        return Exchange(self._library, asked, timeout_s)


def _load() -> Any:
    return importlib.import_module("litellm")


class Exchange:
    """One call; of a streamed one each piece is an event."""

    def __init__(self, library: Any, asked: dict[str, Any], timeout_s: float) -> None:
        self.status = 200
        self.retry_after_s: float | None = None
        self.fields: dict[bytes, bytes] = {}
        self._library = library
        self._asked = asked
        self._timeout_s = timeout_s
        self._due_at = asyncio.get_running_loop().time() + timeout_s
        self._stream: Any = None
        self._over = False
        self._said = False

    async def first(self, first_byte_s: float | None) -> bytes | None:
        """Make the call; the whole answer, or the first piece of a stream, or the body of an error."""
        patience_s = first_byte_s if first_byte_s is not None and first_byte_s < self._timeout_s else None
        try:
            async with asyncio.timeout(patience_s) as patience:
                return await self._bounded(self._begin)
        except TimeoutError:
            if not patience.expired():
                raise
            message = f"the provider sent nothing within {patience_s:g} s"
            raise LlmError("timeout_first_byte", message).charged() from None

    async def read(self) -> bytes | None:
        """The next event, None at the end."""
        return None if self._over else await self._bounded(self._next)

    async def read_all(self, first: bytes | None) -> bytes:
        """The body of an error is all there at once."""
        return first or b""

    async def close(self) -> None:
        """End the call."""
        self._over = True
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(Exception):
                await stream.aclose()

    async def _bounded(self, step: Any) -> bytes | None:
        try:
            async with asyncio.timeout_at(self._due_at) as total:
                return await step()  # type: ignore[no-any-return]
        except TimeoutError as error:
            if not total.expired():
                return self._told(error)
            raise self._late() from None
        except LlmError:
            raise
        except Exception as error:
            return self._told(error)

    async def _begin(self) -> bytes | None:
        answer = await self._library.acompletion(**self._asked)
        if not self._asked.get("stream"):
            self._over = True
            return bytes(answer.model_dump_json().encode())
        self._stream = answer
        return await self._next()

    async def _next(self) -> bytes | None:
        try:
            chunk = await anext(self._stream)
        except StopAsyncIteration:
            self._over = True
            return b"data: [DONE]\n\n"
        for choice in chunk.choices:
            delta = choice.delta
            said = delta.content or delta.tool_calls or getattr(delta, "reasoning_content", None)
            self._said = self._said or bool(said)
            if choice.finish_reason == "stop" and not self._said:
                raise LlmError("bad_response", "the stream ended without an answer").charged()
        return b"data: %b\n\n" % chunk.model_dump_json(exclude_none=True).encode()

    def _told(self, error: Exception) -> bytes:
        """The body of an error of 4xx. Raises LlmError for any other, which may have been billed."""
        status = getattr(error, "status_code", None)
        headers = getattr(error, "litellm_response_headers", None)
        if isinstance(error, self._library.Timeout):
            raise self._late() from None
        if self._stream is not None or not isinstance(status, int) or not 400 <= status < 500:
            code = "bad_response" if headers is None else "provider_5xx"
            raise LlmError(code, shorten(f"the call failed within litellm: {error}")).charged() from None
        self._over = True
        self.status = status
        self.fields = {name.lower().encode(): value.encode() for name, value in (headers or {}).items()}
        self.retry_after_s = retry_after(self.fields)
        return msgspec.json.encode({"error": {"message": str(error)}})

    def _late(self) -> LlmError:
        return LlmError("timeout_total", f"no whole answer within {self._timeout_s:g} s").charged()
