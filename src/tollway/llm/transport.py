"""One provider's HTTP: a bounded pool, exactly one request a call, and each failure under its own name.

Every LlmError raised here says whether the provider may have billed the call: not before the request was sent, and
always once it was, unless an error status came back. A call cancelled before its answer began returns at once, but
pyreqwest lets the request itself run on, holding its connection, at most until the call's total timeout.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import (
    ClientClosedError,
    ConnectError,
    ConnectTimeoutError,
    DecodeError,
    DetailedPyreqwestError,
    PoolTimeoutError,
    PyreqwestError,
    RequestTimeoutError,
)
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from tollway.domain.errors import LlmError

_IN_CONNECT = "client error (Connect)"
_ERROR_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """Bounds of a provider's connections. Beyond `connections_max` calls wait up to `connect_timeout_s` for one."""

    connections_max: int = 2048
    connect_timeout_s: float = 5.0
    idle_timeout_s: float = 30.0
    body_bytes_max: int = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: `retry_after_s` is what its headers ask for, if they do."""

    status: int
    body: bytes
    retry_after_s: float | None


class Transport:
    """Posts JSON to one URL of one provider. `start` before the first call, `stop` may be called twice."""

    def __init__(self, url: str, headers: dict[str, str], options: TransportOptions) -> None:
        self._url = url
        self._headers = [("content-type", "application/json"), *headers.items()]
        self._options = options
        self._client: Client | None = None

    async def start(self) -> None:
        """Make the client; no connection is opened yet."""
        if self._client is None:
            options = self._options
            connect = timedelta(seconds=options.connect_timeout_s)
            self._client = (
                ClientBuilder()
                .max_connections(options.connections_max)
                .pool_timeout(connect)
                .connect_timeout(connect)
                .pool_idle_timeout(timedelta(seconds=options.idle_timeout_s))
                .follow_redirects(False)
                .referer(False)
                .user_agent("tollway")
                .default_headers(self._headers)
                .build()
            )

    async def stop(self) -> None:
        """Close every connection; calls in flight fail with `connection`."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def post(self, body: bytes, call_id: str, timeout_s: float, first_byte_s: float | None) -> Answer:
        """Send and read the whole answer, whatever its status. Times in seconds."""
        exchange = self.open(body, call_id, timeout_s)
        try:
            body = await exchange.read_all(await exchange.first(first_byte_s))
            return Answer(exchange.status, body, exchange.retry_after_s)
        finally:
            await exchange.close()

    def open(self, body: bytes, call_id: str, timeout_s: float) -> "Exchange":
        """An exchange not yet begun."""
        if self._client is None:
            raise RuntimeError("the transport is not started")
        request = (
            self._client.post(self._url)
            .header("x-tollway-call-id", call_id)
            .body_bytes(body)
            .timeout(timedelta(seconds=timeout_s))
            .streamed_read_buffer_limit(0)
            .build_streamed()
        )
        return Exchange(request, timeout_s, self._options)


class Exchange:
    """One request and its answer as it arrives. Always `close` it: that ends the request, whole or not."""

    __slots__ = ("_begun", "_options", "_request", "_response", "_timeout_s", "retry_after_s", "status")

    def __init__(self, request: StreamRequest, timeout_s: float, options: TransportOptions) -> None:
        self._request = request
        self._timeout_s = timeout_s
        self._options = options
        self._begun = False
        self._response: Response | None = None
        self.status = 0
        self.retry_after_s: float | None = None

    async def first(self, first_byte_s: float | None) -> bytes | None:
        """Send the request and wait for the first piece of the answer's body, at most `first_byte_s`."""
        if first_byte_s is None or first_byte_s >= self._timeout_s:
            return await self._first()
        try:
            async with asyncio.timeout(first_byte_s):
                return await self._first()
        except TimeoutError:
            message = f"the provider sent nothing within {first_byte_s:g} s"
            raise self._charged(LlmError("timeout_first_byte", message)) from None

    async def _first(self) -> bytes | None:
        try:
            response = self._response = await self._request.__aenter__()
        except PyreqwestError as error:
            self._fail(error)
        self._begun = True
        self.status = response.status
        if self.status >= 300:
            self.retry_after_s = retry_after(response)
        return await self.read()

    async def read(self) -> bytes | None:
        """The next piece of the body, None at its end."""
        assert self._response is not None
        try:
            chunk = await self._response.body_reader.read_chunk()
        except PyreqwestError as error:
            self._fail(error)
        return None if chunk is None else chunk.to_bytes()

    async def read_all(self, first: bytes | None) -> bytes:
        """The whole body. Of an error's body little more than 64 KiB are read; a larger answer is a failure."""
        if first is None:
            return b""
        parts = [first]
        size = len(first)
        while (chunk := await self.read()) is not None:
            parts.append(chunk)
            size += len(chunk)
            if self.status >= 400 and size > _ERROR_BYTES_MAX:
                break
            if size > self._options.body_bytes_max:
                raise LlmError(
                    "bad_response", f"the answer is larger than {self._options.body_bytes_max} bytes"
                ).charged()
        return first if len(parts) == 1 else b"".join(parts)

    async def close(self) -> None:
        """End the exchange; a body not read to its end closes the connection."""
        if self._begun:
            self._begun = False
            self._response = None
            await self._request.__aexit__(None, None, None)

    def _fail(self, error: PyreqwestError) -> NoReturn:
        if isinstance(error, PoolTimeoutError):
            raise LlmError("timeout_connect", "no connection came free in time") from error
        if isinstance(error, (ConnectTimeoutError, ConnectError)) and _in_connect(error):
            if isinstance(error, ConnectTimeoutError):
                limit_s = self._options.connect_timeout_s
                raise LlmError("timeout_connect", f"no connection within {limit_s:g} s") from error
            raise LlmError("connection", f"cannot connect: {_reason(error)}") from error
        if isinstance(error, RequestTimeoutError):
            message = f"no whole answer within {self._timeout_s:g} s"
            raise self._charged(LlmError("timeout_total", message)) from error
        truncated = self.status > 0 and not isinstance(error, ClientClosedError)
        code = "bad_response" if truncated or isinstance(error, DecodeError) else "connection"
        raise self._charged(LlmError(code, f"the connection broke: {_reason(error)}")) from error

    def _charged(self, error: LlmError) -> LlmError:
        """The request was sent; only an error status says that nothing is charged."""
        return error if self.status >= 400 else error.charged()


def _causes(error: PyreqwestError) -> list[str]:
    causes = error.details["causes"] if isinstance(error, DetailedPyreqwestError) else None
    return [cause["message"] for cause in causes or ()]


def _in_connect(error: PyreqwestError) -> bool:
    return _IN_CONNECT in _causes(error)


def _reason(error: PyreqwestError) -> str:
    causes = _causes(error)
    return causes[-1] if causes else error.message


def retry_after(response: Response) -> float | None:
    """Seconds the headers ask to wait: `retry-after-ms`, else `retry-after`; None for neither, a date or nonsense."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = response.get_header(name)
        if text is None:
            continue
        try:
            wait_s = float(text) * unit_s
        except ValueError:
            continue
        if 0 <= wait_s < 86_400:
            return wait_s
    return None
