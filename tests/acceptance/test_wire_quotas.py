"""Quotas of tenants over the wire: what the vendors' own SDKs raise, and when they may come again; black-box."""

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import openai
import pytest
from stack_kit import Http, Stack, until
from wire_kit import Provider, clients, wired

HI: list[Any] = [{"role": "user", "content": "Hi there"}]
FORMS = pytest.mark.parametrize("form", ["chat", "responses", "messages", "embeddings"])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Provider]]:
    """A Tollway with the agent `asks`, and the provider behind it."""
    folder = tmp_path_factory.mktemp("quotas")
    (folder / "asking.py").write_text(
        "import tollway\n\n\n"
        "@tollway.agent(tier='fast')\n"
        "async def asks(run: tollway.Run, text: str) -> str:\n"
        "    return (await run.llm(text, cache='off')).text\n"
    )
    with wired(folder, "asking") as running:
        yield running


class Asker:
    """A tenant of its own, with both SDKs and plain HTTP."""

    def __init__(self, stack: Stack, **settings: Any) -> None:
        self.tenant = f"t-{uuid.uuid4().hex[:10]}"
        self._admin = stack.http
        self.limit(**settings)
        self.http: Http = stack.http.make_key(self.tenant, "submit", "read")
        assert self.http.key is not None
        self.gpt, self.claude = clients(stack.port, self.http.key)

    def limit(self, **settings: Any) -> None:
        """Change the tenant's settings."""
        assert self._admin.call("PUT", f"/v1/tenants/{self.tenant}", settings).status in (200, 201)

    def ask(self, form: str) -> object:
        """One call in a form."""
        if form == "chat":
            return self.gpt.chat.completions.create(model="fast", messages=HI, max_tokens=20)
        if form == "responses":
            return self.gpt.responses.create(model="fast", input="Hi there", max_output_tokens=20)
        if form == "embeddings":
            return self.gpt.embeddings.create(model="embed", input="Hi there")
        return self.claude.messages.create(model="kind", messages=HI, max_tokens=20)


def refusal(asker: Asker, form: str) -> Any:
    """The error that the SDK raises."""
    for _ in range(50):
        try:
            asker.ask(form)
        except (openai.APIStatusError, anthropic.APIStatusError) as error:
            return error
    raise AssertionError("none of fifty calls was refused")


def serves(asker: Asker, form: str) -> bool:
    """Whether a call in a form is taken now."""
    try:
        asker.ask(form)
    except (openai.RateLimitError, anthropic.RateLimitError):
        return False
    return True


@FORMS
def test_a_rate_of_calls(both: tuple[Stack, Provider], form: str) -> None:
    """Beyond `runs_per_s` the SDK raises its RateLimitError with when to come again, and is served then."""
    asker = Asker(both[0], runs_per_s=0.5)
    asker.ask(form)
    error = refusal(asker, form)
    assert isinstance(error, openai.RateLimitError | anthropic.RateLimitError)
    headers = error.response.headers
    assert headers["ratelimit-policy"].startswith('"runs_per_s";q=1;w=2')
    wait_ms = int(headers["retry-after-ms"])
    assert 0 < wait_ms <= 2000
    assert int(headers["retry-after"]) * 1000 >= wait_ms
    assert asker.http.call("POST", "/v1/runs", {"agent": "asks", "input": "x"}).status == 429
    refused_at = time.monotonic()
    until(lambda: serves(asker, form), "the door to open")
    assert time.monotonic() - refused_at >= wait_ms / 1000 - 0.2


@FORMS
def test_a_spent_day(both: tuple[Stack, Provider], form: str) -> None:
    """Once the day's tokens are used the SDK raises its PermissionDeniedError, which it does not repeat."""
    asker = Asker(both[0], tokens_per_day=2)
    error = refusal(asker, form)
    assert isinstance(error, openai.PermissionDeniedError | anthropic.PermissionDeniedError)
    assert error.response.headers["x-should-retry"] == "false"
    assert "opens at" in str(error)
    asker.http.call("POST", "/v1/runs", {"agent": "asks", "input": "x"}).problem(403, "quota_exhausted")


@pytest.mark.parametrize("form", ["chat", "messages"])
def test_a_spent_minute(both: tuple[Stack, Provider], form: str) -> None:
    """Once the minute's tokens are used, calls and runs are refused until they are past; lifting the quota opens."""
    asker = Asker(both[0], tokens_per_min=30)
    error = refusal(asker, form)
    assert isinstance(error, openai.RateLimitError | anthropic.RateLimitError)
    assert 0 < int(error.response.headers["retry-after"]) <= 65
    asker.http.call("POST", "/v1/runs", {"agent": "asks", "input": "x"}).problem(429, "rate_limited")
    asker.limit(tokens_per_min=None)
    asker.ask(form)


def test_a_burst_of_calls_is_held_back_by_those_under_way(both: tuple[Stack, Provider]) -> None:
    """Of many calls at once no more are made than the quota covers at their worst case, and one."""
    stack, provider = both
    asker = Asker(stack, tokens_per_min=100)
    provider.pace(latency_s=0.5)
    before = provider.totals()["calls"]

    with ThreadPoolExecutor(20) as pool:
        taken = sum(pool.map(lambda _: serves(asker, "chat"), range(20)))
    provider.pace()
    assert 1 <= taken <= 5
    assert provider.totals()["calls"] - before == taken


def test_tokens_of_runs_count_at_the_door(both: tuple[Stack, Provider]) -> None:
    """What a worker's runs use closes the door of runs and calls within moments, while a run that began goes on."""
    asker = Asker(both[0], tokens_per_day=10)
    run = asker.http.submit("asks", "some text of several words")
    assert asker.http.ended(run["id"])["state"] == "succeeded"
    answer = until(
        lambda: (last := asker.http.call("POST", "/v1/runs", {"agent": "asks", "input": "x"})).status == 403 and last,
        "the door to close",
    )
    assert answer.json["code"] == "quota_exhausted"
    assert isinstance(refusal(asker, "chat"), openai.PermissionDeniedError)
