"""One POST to a receiver of webhooks: bounded in time and in what is read of the answer, no redirect followed."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import (
    BuilderError,
    ConnectTimeoutError,
    DetailedPyreqwestError,
    PyreqwestError,
    RequestTimeoutError,
)
from pyreqwest.response import Response

ANSWER_BYTES_MAX = 4096
ANSWER_READ_S = 0.5
_IN_CONNECT = "client error (Connect)"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status (0: nothing did), the `retry-after` header, and what went wrong, in words."""

    status: int
    retry_after: str | None = None
    error: str = ""
    hopeless: bool = False


class Poster:
    """Posts JSON to any URL. `start` before the first, `stop` may be called twice."""

    def __init__(self, connections_max: int, connect_timeout_s: float, timeout_s: float) -> None:
        self._connections_max = connections_max
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._client: Client | None = None

    async def start(self) -> None:
        """Make the client; no connection is opened yet."""
        if self._client is None:
            self._client = (
                ClientBuilder()
                .max_connections(self._connections_max)
                .pool_timeout(timedelta(seconds=self._timeout_s))
                .connect_timeout(timedelta(seconds=self._connect_timeout_s))
                .pool_idle_timeout(timedelta(seconds=20))
                .timeout(timedelta(seconds=self._timeout_s))
                .follow_redirects(False)
                .referer(False)
                .user_agent("tollway")
                .default_headers([("content-type", "application/json")])
                .build()
            )

    async def stop(self) -> None:
        """Close every connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """Send `body` and wait for the status. A failure is an answer too; cancelling aborts the request."""
        if self._client is None:
            raise RuntimeError("the poster is not started")
        try:
            return await self._post(self._client, url, headers, body)
        except (ConnectTimeoutError, RequestTimeoutError) as error:
            if _IN_CONNECT in _causes(error):
                return Answer(0, error=f"no connection within {self._connect_timeout_s:g} s")
            return Answer(0, error=f"no answer within {self._timeout_s:g} s")
        except (BuilderError, ValueError) as error:
            return Answer(0, error=f"the URL cannot be used: {_reason(error)}", hopeless=True)
        except PyreqwestError as error:
            return Answer(0, error=f"the connection failed: {_reason(error)}")

    async def _post(self, client: Client, url: str, headers: dict[str, str], body: bytes) -> Answer:
        request = client.post(url).headers(headers).body_bytes(body).streamed_read_buffer_limit(0).build_streamed()
        async with request as response:
            status = response.status
            if 200 <= status < 300:
                await _read_a_little(response)
                return Answer(status)
            error = f"the receiver answered {status}" + (" (redirects are not followed)" if status < 400 else "")
            answer = Answer(status, response.get_header("retry-after"), error, hopeless=status == 410)
            await _read_a_little(response)
            return answer


async def _read_a_little(response: Response) -> None:
    """Read a short answer to its end, so that its connection can be used again; what is longer is cut off."""
    size = 0
    try:
        async with asyncio.timeout(ANSWER_READ_S):
            while size < ANSWER_BYTES_MAX and (chunk := await response.body_reader.read_chunk()) is not None:
                size += len(chunk)
    except (TimeoutError, PyreqwestError):
        return


def _causes(error: Exception) -> list[str]:
    causes = error.details["causes"] if isinstance(error, DetailedPyreqwestError) else None
    return [cause["message"] for cause in causes or ()]


def _reason(error: Exception) -> str:
    causes = _causes(error)
    return causes[-1] if causes else type(error).__name__
