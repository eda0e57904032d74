"""One suite over every vendor's wire, against a server that answers what no vendor should: nothing of it gets out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from llm_kit import ASK, KINDS, answering, gateway_to, plan_on_first, serving
from tollway.domain.errors import LlmError
from tollway.llm.gateway import Gateway

BODIES = {
    "empty": b"",
    "truncated": b'{"id":"x","choices":[{"message":{"content":"this ends in the mid',
    "html": b"<html><body>It works!</body></html>",
    "null": b"null",
    "list": b"[]",
    "other object": b'{"unexpected":true}',
    "wrong types": b'{"choices":5,"content":5,"output":5,"candidates":5}',
    "not UTF-8": b"\xff\xfe{}",
    "deep": b"[" * 100_000,
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The vendor."""
    return str(request.param)


@asynccontextmanager
async def told(kind: str, *answers: bytes) -> AsyncIterator[Gateway]:
    """A gateway to a server that gives these answers."""
    async with serving(answering(*answers)) as url:
        gateway = gateway_to(kind, url.removesuffix("/v1/x"))
        await gateway.start()
        try:
            yield gateway
        finally:
            await gateway.stop()


def http(status: int, body: bytes, *headers: str) -> bytes:
    """An answer as it is sent."""
    lines = "".join(f"{line}\r\n" for line in headers)
    return f"HTTP/1.1 {status} x\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_bad_bodies(kind: str, body: bytes) -> None:
    """An answer that cannot be read is `bad_response`, may be billed, and can be tried again; whole or streamed."""
    event = b"data: " + body.replace(b"\n", b" ") + b"\n\n"
    async with told(kind, http(200, body), http(200, event)) as gateway:
        with pytest.raises(LlmError) as caught:
            await gateway.execute(plan_on_first(gateway, ASK), "c", 5)
        assert (caught.value.code, caught.value.billed, caught.value.final) == ("bad_response", True, False)
        stream = gateway.stream(plan_on_first(gateway, replace(ASK, stream=True)), "d", 5)
        with pytest.raises(LlmError) as caught:
            await anext(stream)
        assert (caught.value.code, caught.value.billed, caught.value.final) == ("bad_response", True, False)
        assert caught.value.usage is not None
        assert caught.value.usage.estimated


@pytest.mark.parametrize(
    ("status", "code", "final"),
    [(400, "refused", True), (404, "refused", True), (429, "rate_limited", False), (500, "provider_5xx", False),
     (501, "refused", True), (529, "provider_5xx", False)],
)  # fmt: skip
@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error":{"message":"so it is"}}', b"\xff"])
async def test_statuses(kind: str, status: int, code: str, final: bool, body: bytes) -> None:
    """A status has its code and the vendor's wait whatever the body, and is not billed."""
    async with told(kind, http(status, body, "retry-after: 7")) as gateway:
        with pytest.raises(LlmError) as caught:
            await gateway.execute(plan_on_first(gateway, ASK), "c", 5)
        error = caught.value
        assert (error.code, error.final, error.billed, error.retry_after_s) == (code, final, False, 7.0)


async def test_wait_in_the_body(kind: str) -> None:
    """Where the wait is told in the body alone, as Google does, it holds too."""
    body = b'{"error":{"code":429,"message":"quota","details":[{"@type":"x"},{"retryDelay":"1.25s"}]}}'
    async with told(kind, http(429, body)) as gateway:
        with pytest.raises(LlmError, match="quota") as caught:
            await gateway.execute(plan_on_first(gateway, ASK), "c", 5)
        assert caught.value.retry_after_s == 1.25
