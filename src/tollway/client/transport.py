"""Sends requests and repeats those that may be repeated, so that a retry can never double anything.

A request is `repeatable` when the server treats a second one as the first (reads, PUT, DELETE, submits with an
idempotency key). Others are repeated only when the server surely did nothing: never connected, 429, or draining.
"""

import asyncio
import atexit
import math
import os
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

import msgspec
from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import ConnectError, ConnectTimeoutError, DetailedPyreqwestError, RequestError
from pyreqwest.http import Url
from pyreqwest.request import RequestBuilder
from pyreqwest.response import Response

from tollway.client.errors import ApiError, Unreachable, api_error
from tollway.domain.errors import ConfigError

DEFAULT_URL = "http://127.0.0.1:8700"
_BACKOFF_FIRST_S = 0.1
_BACKOFF_MAX_S = 5.0
_LAST_CALLBACK_S = 0.02
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

# A thread of the transport may still be on its way out of its last callback. One that finds the interpreter going away
# aborts the process, so the end waits for it.
atexit.register(time.sleep, _LAST_CALLBACK_S)


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How patient a client is, in seconds.

    `timeout_s` bounds one request, `retry_for_s` all its repetitions. A stream of events that is silent for
    `stream_silence_s` is taken as cut; resuming one is given up after `resume_for_s` without a connection.
    """

    connect_timeout_s: float = 5.0
    timeout_s: float = 30.0
    retry_for_s: float = 30.0
    stream_silence_s: float = 90.0
    resume_for_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request; `wait_s` is how long the server was asked to hold the answer."""

    method: str
    path: str
    query: list[tuple[str, str]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    repeatable: bool = True
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer, read whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body's value. Raises ApiError `unexpected_answer` for what is no JSON."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise api_error(self.status, self.headers, self.body) from None


class Transport:
    """One pool of connections to one server, with one key."""

    def __init__(self, url: str | None, api_key: str | None, tenant: str | None, options: ClientOptions) -> None:
        self.url = _checked_url(url if url is not None else os.environ.get("TOLLWAY_URL") or DEFAULT_URL)
        self.options = options
        self._headers = _identity(api_key if api_key is not None else os.environ.get("TOLLWAY_API_KEY"), tenant)
        builder = (
            ClientBuilder()
            .user_agent("tollway-client")
            .follow_redirects(False)
            .connect_timeout(timedelta(seconds=options.connect_timeout_s))
            .read_timeout(timedelta(seconds=max(options.stream_silence_s, options.timeout_s)))
        )
        if is_loopback(self.url):
            builder = builder.no_proxy()
        self._http = builder.build()

    async def close(self) -> None:
        """Close every connection; a second call does nothing."""
        await self._http.close()

    async def send(self, call: Call) -> Answer:
        """The answer, after as many tries as `retry_for_s` has room for.

        Raises ApiError for a refusal, Unreachable when nobody answers.
        """
        deadline = time.monotonic() + self.options.retry_for_s
        for attempt in count():
            problem: ApiError | Unreachable
            pause_s = backoff_s(attempt)
            try:
                return await self._once(call)
            except ApiError as error:
                problem = error
                if not _repeat_refused(call, error):
                    raise
                pause_s = max(pause_s, error.retry_after_s or 0.0)
            except RequestError as error:
                problem = self.unreachable(error)
                if not call.repeatable and not isinstance(error, ConnectError | ConnectTimeoutError):
                    raise problem from error
            if time.monotonic() + pause_s > deadline:
                raise problem
            await asyncio.sleep(pause_s)
        raise AssertionError("unreachable: the loop above only ends by return or raise")

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[Response]:
        """The answer with its body still to be read; never repeated. Raises as `send` does."""
        # with its default the transport holds a stream back until 64 KB have come
        request = self._request(call).streamed_read_buffer_limit(0).build_streamed()
        try:
            async with request as response:
                if response.status >= 300:
                    raise api_error(response.status, response.headers, bytes(await response.bytes()))
                yield response
        except RequestError as error:
            raise self.unreachable(error) from error

    def unreachable(self, error: DetailedPyreqwestError) -> Unreachable:
        """What the transport's error means to people."""
        causes = error.details.get("causes") or []
        innermost = causes[-1]["message"] if causes else error.message
        return Unreachable(self.url, innermost)

    async def _once(self, call: Call) -> Answer:
        total = timedelta(seconds=self.options.timeout_s + call.wait_s)
        response = await self._request(call).timeout(total).build().send()
        body = bytes(await response.bytes())
        if response.status >= 300:
            raise api_error(response.status, response.headers, body)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, headers, body)

    def _request(self, call: Call) -> RequestBuilder:
        request = self._http.request(call.method, self.url + call.path).headers(self._headers).headers(call.headers)
        if call.query:
            request = request.query(call.query)
        if call.body is not None:
            request = request.body_bytes(call.body)
            if "content-type" not in call.headers:
                request = request.header("content-type", "application/json")
        return request


def backoff_s(attempt: int) -> float:
    """A jittered pause that doubles from 0.1 s to 5 s; `attempt` counts from 0."""
    return min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S * float(1 << min(attempt, 10))) * random.uniform(0.5, 1.0)


def is_loopback(url: str) -> bool:
    """Whether the server is on this machine."""
    return Url.is_valid(url) and Url(url).host_str in _LOOPBACK


def encode(value: object) -> bytes:
    """JSON of plain values, msgspec structs, dataclasses and Pydantic models. Raises TypeError for others."""
    return msgspec.json.encode(value, enc_hook=_plain)


def encode_settings(value: object) -> bytes:
    """The same of settings, where NaN and infinity must not become null, which lifts a limit: ValueError for them."""
    check_finite(value, "the body")
    return encode(value)


def check_finite(value: object, name: str) -> None:
    """Raise ValueError, by its name, for a number within plain values that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value}")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_finite(inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            check_finite(inner, name)


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return dump(mode="json")


def _repeat_refused(call: Call, error: ApiError) -> bool:
    if error.status == 429:
        return error.retry_after_s is not None
    return error.code == "draining" or (call.repeatable and error.status in (502, 503, 504))


def _checked_url(url: str) -> str:
    if not Url.is_valid(url) or Url(url).scheme not in ("http", "https") or Url(url).query_string:
        raise ConfigError("TOLLWAY_URL", url, "must be an address such as http://127.0.0.1:8700")
    return url.rstrip("/")


def _identity(api_key: str | None, tenant: str | None) -> dict[str, str]:
    headers = {}
    if api_key:
        if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
            raise ConfigError("TOLLWAY_API_KEY", "(hidden)", "a key is printable characters without spaces: tw_…")
        headers["authorization"] = f"Bearer {api_key}"
    if tenant:
        if not tenant.isascii() or not tenant.isprintable():
            raise ConfigError("tenant", tenant, "a tenant's id is letters, digits, . _ and -")
        headers["x-tollway-tenant"] = tenant
    return headers
