"""The governed wire, driven by the vendors' own SDKs: what they get, what they raise, and what it costs; black-box."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, Literal

import anthropic
import openai
import pytest
from pydantic import BaseModel
from stack_kit import ADMIN_KEY, TOLLWAY, Http, Stack, environ_of, free_port, until, wait_ready
from wire_kit import PROVIDERS, Books, Provider, clients, wired

HI: list[Any] = [{"role": "user", "content": "Hi there"}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION: dict[str, Any] = {"name": "weather", "description": "Of a city", "parameters": CITY}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
TIERS = pytest.mark.parametrize("tier", PROVIDERS)


class Verdict(BaseModel):
    """What a structured answer must be."""

    label: Literal["card", "loan"]
    sure: bool


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Provider]]:
    """A Tollway and the provider behind it."""
    with wired(tmp_path_factory.mktemp("wire")) as running:
        yield running


@pytest.fixture
def stack(both: tuple[Stack, Provider]) -> Stack:
    """The Tollway."""
    return both[0]


@pytest.fixture
def provider(both: tuple[Stack, Provider]) -> Iterator[Provider]:
    """The provider, quick and short again afterwards."""
    yield both[1]
    both[1].pace()


@pytest.fixture
def gpt(stack: Stack) -> openai.OpenAI:
    """OpenAI's SDK."""
    return clients(stack.port)[0]


@pytest.fixture
def claude(stack: Stack) -> anthropic.Anthropic:
    """Anthropic's SDK."""
    return clients(stack.port)[1]


@TIERS
def test_chat(gpt: openai.OpenAI, tier: str) -> None:
    """A chat completion, whole and streamed, over every provider's form; usage is told when it is asked for."""
    whole = gpt.chat.completions.create(model=tier, messages=HI)
    assert whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8
    plain = list(gpt.chat.completions.create(model=tier, messages=HI, stream=True))
    assert all(chunk.choices for chunk in plain)
    assert plain[-1].choices[0].finish_reason == "stop"
    told = list(gpt.chat.completions.create(
        model=tier, messages=HI, stream=True, stream_options={"include_usage": True}
    ))  # fmt: skip
    assert told[-1].usage is not None
    assert told[-1].usage.completion_tokens == 8
    for chunks in (plain, told):
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert len(text.split()) == 8


@TIERS
def test_responses(gpt: openai.OpenAI, tier: str) -> None:
    """A response, whole and streamed, over every provider's form, its events in the SDK's order."""
    whole = gpt.responses.create(model=tier, input="Hi there", instructions="Be brief")
    assert len(whole.output_text.split()) == 8
    assert whole.usage is not None
    assert whole.usage.output_tokens == 8
    with gpt.responses.stream(model=tier, input="Hi there") as stream:
        kinds = [event.type for event in stream]
        assert len(stream.get_final_response().output_text.split()) == 8
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


@TIERS
def test_messages(claude: anthropic.Anthropic, tier: str) -> None:
    """A message, whole and streamed, over every provider's form."""
    whole = claude.messages.create(model=tier, max_tokens=50, system="Be brief", messages=HI)
    assert whole.stop_reason == "end_turn"
    assert whole.usage.output_tokens == 8
    with claude.messages.stream(model=tier, max_tokens=50, messages=HI) as stream:
        assert len("".join(stream.text_stream).split()) == 8
        final = stream.get_final_message()
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 8)


@TIERS
def test_tools(gpt: openai.OpenAI, claude: anthropic.Anthropic, tier: str) -> None:
    """A tool is called over every wire and provider, streams included, and its result can be sent back."""
    tools: list[Any] = [{"type": "function", "function": FUNCTION}]
    call = gpt.chat.completions.create(model=tier, messages=HI, tools=tools, tool_choice="required").choices[0]
    assert call.message.tool_calls is not None
    made: Any = call.message.tool_calls[0]
    assert made.function.name == "weather"
    assert "city" in json.loads(made.function.arguments)
    back = [
        *HI,
        call.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": made.id, "content": "rain"},
    ]
    assert gpt.chat.completions.create(model=tier, messages=back, tools=tools).choices[0].message
    with gpt.responses.stream(
        model=tier, input="Hi", tools=[{"type": "function", "strict": True, **FUNCTION}], tool_choice="required"
    ) as stream:
        stream.until_done()
        items = [item for item in stream.get_final_response().output if item.type == "function_call"]
    assert "city" in json.loads(items[0].arguments)
    schema: Any = {"name": "weather", "input_schema": CITY}
    with claude.messages.stream(
        model=tier, max_tokens=50, messages=HI, tools=[schema], tool_choice={"type": "any"}
    ) as answers:
        final = answers.get_final_message()
    assert final.stop_reason == "tool_use"
    used: Any = next(block for block in final.content if block.type == "tool_use")
    assert "city" in used.input


@TIERS
def test_structured_output(gpt: openai.OpenAI, claude: anthropic.Anthropic, tier: str) -> None:
    """A type is filled over every wire and provider."""
    chat = gpt.chat.completions.parse(model=tier, messages=HI, response_format=Verdict)
    assert isinstance(chat.choices[0].message.parsed, Verdict)
    assert isinstance(gpt.responses.parse(model=tier, input="Hi", text_format=Verdict).output_parsed, Verdict)
    parsed = claude.messages.parse(model=tier, max_tokens=50, messages=HI, output_format=Verdict)
    assert isinstance(parsed.parsed_output, Verdict)


def test_embeddings(gpt: openai.OpenAI) -> None:
    """Texts become vectors, one each; a provider that makes none is not asked."""
    found = gpt.embeddings.create(model="embed", input=["a", "b"])
    assert [one.index for one in found.data] == [0, 1]
    assert found.data[0].embedding != found.data[1].embedding
    tokens = gpt.embeddings.create(model="embed", input=[[1, 2, 3], [4, 5]])
    assert (len(tokens.data), tokens.usage.prompt_tokens) == (2, 5)
    plain = gpt.embeddings.create(model="embed", input="a", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(found.data[0].embedding, abs=1e-6)
    with pytest.raises(openai.BadRequestError):
        gpt.embeddings.create(model="kind", input="a")


def test_models(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    """Both SDKs list the tiers and the models that serve them, and a model is asked for by its own name."""
    wanted = {*PROVIDERS, "embed", *(f"m-{tier}" for tier in PROVIDERS), "m-embed"}
    assert {model.id for model in gpt.models.list()} == wanted
    assert {model.id for model in claude.models.list()} == wanted
    assert gpt.models.retrieve("m-kind").owned_by == "p-kind"
    assert gpt.chat.completions.create(model="m-fast", messages=HI).choices
    with pytest.raises(openai.NotFoundError):
        gpt.models.retrieve("nothing")


def test_unknown_fields_pass_through(stack: Stack, provider: Provider) -> None:
    """A provider of the client's own form is sent the fields we do not know, and its answer comes back as it is."""
    body = {"model": "fast", "messages": HI, "logit_bias": {}, "shiny": {"new": True}}
    answer = stack.http.post("/v1/chat/completions", body)
    assert answer.status == 200
    assert answer.json["system_fingerprint"] == "fp_simulated"
    assert answer.headers["x-tollway-route"] == "fast"
    assert answer.headers["x-tollway-cache"] == "off"
    row = provider.last()
    assert answer.headers["x-tollway-call-id"] == row["call_id"]
    assert round(float(answer.headers["x-tollway-cost-usd"]) * 1e9) == row["cost_nano"]


Sdk = Callable[[openai.OpenAI, anthropic.Anthropic], Any]
BAD: list[tuple[str, Sdk, str, str]] = [
    ("unknown tier", lambda o, a: o.chat.completions.create(model="no", messages=HI), "NotFoundError",
     "param=model"),
    ("unknown tier", lambda o, a: o.responses.create(model="no", input="Hi"), "NotFoundError", "param=model"),
    ("unknown tier", lambda o, a: a.messages.create(model="no", max_tokens=5, messages=HI), "NotFoundError", "no"),
    ("no tokens", lambda o, a: o.chat.completions.create(model="fast", messages=HI, max_tokens=0), "BadRequestError",
     "max_tokens"),
    ("too many", lambda o, a: o.chat.completions.create(model="fast", messages=HI, max_tokens=4001), "BadRequestError",
     "4000"),
    ("too many", lambda o, a: o.responses.create(model="fast", input="Hi", max_output_tokens=4001), "BadRequestError",
     "max_output_tokens"),
    ("too many", lambda o, a: a.messages.create(model="fast", max_tokens=4001, messages=HI), "BadRequestError", "4000"),
    ("no messages", lambda o, a: o.chat.completions.create(model="fast", messages=[]), "BadRequestError", "messages"),
    ("stateless", lambda o, a: o.responses.create(model="fast", input="Hi", previous_response_id="r"),
     "BadRequestError", "stateless"),
    ("two answers", lambda o, a: o.chat.completions.create(model="fast", messages=HI, n=2), "BadRequestError", "n:"),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "kind", "said"), [pytest.param(*one[1:], id=one[0]) for one in BAD])
def test_bad_requests(
    stack: Stack, gpt: openai.OpenAI, claude: anthropic.Anthropic, ask: Sdk, kind: str, said: str
) -> None:
    """Each raises the SDK's own error, which names the field or the limit; nothing is held or charged. (P11)"""
    books = Books(stack)
    before = len(books.settled())
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as caught:
        ask(gpt, claude)
    assert type(caught.value).__name__ == kind
    assert said in f"{caught.value} param={getattr(caught.value, 'param', None)}"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(books.settled()) == before


def test_bad_keys(stack: Stack) -> None:
    """An unknown key, and one without the scope, raise the SDKs' own errors; a good one works in either header."""
    gpt, claude = clients(stack.port, "tw_unknown")
    with pytest.raises(openai.AuthenticationError):
        gpt.chat.completions.create(model="fast", messages=HI)
    with pytest.raises(anthropic.AuthenticationError):
        claude.messages.create(model="fast", max_tokens=5, messages=HI)
    reader = stack.http.make_key("acme", "read").key
    assert reader is not None
    with pytest.raises(openai.PermissionDeniedError):
        clients(stack.port, reader)[0].chat.completions.create(model="fast", messages=HI)
    writer = stack.http.make_key("acme", "submit").key
    assert writer is not None
    assert clients(stack.port, writer)[1].messages.create(model="fast", max_tokens=5, messages=HI).content


def test_a_failing_provider(stack: Stack, provider: Provider, gpt: openai.OpenAI) -> None:
    """Its 429 and 5xx reach the client as errors of the same kind, with the time to come again. (P11)"""
    provider.pace(fault_rates={"status_429": 1.0})
    with pytest.raises(openai.RateLimitError) as limited:
        gpt.chat.completions.create(model="thoughtful", messages=HI)
    assert int(limited.value.response.headers["retry-after-ms"]) > 0
    provider.pace(fault_rates={"status_500": 1.0})
    with pytest.raises(openai.InternalServerError):
        gpt.responses.create(model="thoughtful", input="Hi", stream=True)


def test_lanes_and_caches_are_checked(stack: Stack) -> None:
    """A header that makes no sense is refused by its name. (P11)"""
    for header, value in (("x-tollway-lane", "express"), ("x-tollway-cache", "maybe")):
        answer = stack.http.post("/v1/chat/completions", {"model": "fast", "messages": HI}, **{header: value})
        assert answer.status == 400
        assert answer.json["error"]["param"] == header
    answer = stack.http.post("/v1/chat/completions", {"model": "fast", "messages": HI}, x_tollway_lane="batch")
    assert answer.status == 200


def test_kept_answers_are_asked_for(stack: Stack, provider: Provider) -> None:
    """Only where the header says so, the same request is answered from the cache: byte for byte, for nothing. (P10)"""
    body = {"model": "fast", "messages": [{"role": "user", "content": "What is kept?"}]}
    before = provider.totals()["calls"]
    asked = [stack.http.post("/v1/chat/completions", body, x_tollway_cache="exact") for _ in range(2)]
    assert [answer.headers["x-tollway-cache"] for answer in asked] == ["miss", "hit"]
    assert asked[0].body == asked[1].body
    assert float(asked[0].headers["x-tollway-cost-usd"]) > 0
    assert float(asked[1].headers["x-tollway-cost-usd"]) == 0
    assert provider.totals()["calls"] == before + 1
    assert stack.http.post("/v1/chat/completions", body).headers["x-tollway-cache"] == "off"
    assert provider.totals()["calls"] == before + 2
    more = stack.http.post("/v1/chat/completions", {**body, "seed": 1}, x_tollway_cache="exact")
    assert more.headers["x-tollway-cache"] == "miss"


def test_large_bodies_take_the_other_way(gpt: openai.OpenAI) -> None:
    """A body too large for the short way is answered alike, streams included."""
    words: list[Any] = [{"role": "user", "content": "word " * 20_000}]
    assert gpt.chat.completions.create(model="fast", messages=words).choices[0].message.content
    assert list(gpt.chat.completions.create(model="fast", messages=words, stream=True))
    with pytest.raises(openai.NotFoundError):
        gpt.chat.completions.create(model="no", messages=words)


@pytest.mark.parametrize("words", [1, 20_000], ids=["short way", "other way"])
def test_a_client_that_leaves(stack: Stack, provider: Provider, gpt: openai.OpenAI, words: int) -> None:
    """Leaving a stream early cancels the call upstream, and what came is charged; nothing stays reserved. (P10)"""
    provider.pace(output_tokens=2000, tokens_per_s=50)
    before = len(Books(stack).settled())
    said: list[Any] = [{"role": "user", "content": "word " * words}]
    stream = gpt.chat.completions.create(model="fast", messages=said, stream=True)
    for _, _chunk in zip(range(4), stream, strict=False):
        pass
    stream.close()
    until(lambda: len(Books(stack).settled()) > before, "the entry of the stream that was left")
    entry = Books(stack).settled()[-1]
    assert (entry["kind"], entry["estimated"]) == ("settle", True)
    assert 0 < entry["output_tokens"] < 200
    last = provider.last()
    assert last["status"] == 499
    assert abs(entry["output_tokens"] - last["output_tokens"]) <= 12  # what was on its way when the client left


def test_the_ledger_is_the_providers(stack: Stack, provider: Provider, gpt: openai.OpenAI) -> None:
    """Every call that came back whole costs in Tollway's ledger what the provider billed for it. (P10)"""
    gpt.chat.completions.create(model="fast", messages=HI)
    list(gpt.chat.completions.create(model="kind", messages=HI, stream=True))
    gpt.embeddings.create(model="embed", input="a")
    billed = {
        row["call_id"]: row["cost_nano"]
        for row in Http(provider.port, None).get("/sim/ledger").json["rows"]
        if row["status"] == 200
    }
    entries = {str(entry["call_id"]): entry for entry in Books(stack).settled()}
    assert len(billed) >= 3
    assert {call_id: entries[call_id]["nano"] for call_id in billed} == billed
    assert all(entry["key_id"] and entry["tier"] and entry["run_id"] is None for entry in entries.values())


def test_a_killed_process_leaves_no_reservation(stack: Stack, provider: Provider, gpt: openai.OpenAI) -> None:
    """After kill -9 of the API its calls under way are charged as unknown, at what was reserved. (P1, P10)"""
    provider.pace(output_tokens=4000, tokens_per_s=20)
    books = Books(stack)
    stream = gpt.chat.completions.create(model="fast", messages=HI, stream=True, max_tokens=4000)
    next(stream)
    (call,) = until(lambda: books.rows("select call_id, reserved_nano from wire_call"), "the reservation")
    os.kill(stack.pids("tollway api")[0], signal.SIGKILL)
    assert books.settled()
    (entry,) = books.rows("select kind, nano from ledger where call_id = $1", call["call_id"])
    assert entry == {"kind": "unknown", "nano": call["reserved_nano"]}
    stack.ready()


def test_wire_only(stack: Stack, provider: Provider) -> None:
    """An API for the wire alone serves it, health and metrics, refuses the rest, and ends its streams before itself."""
    url = environ_of(stack.pids("tollway api")[0])["TOLLWAY_DATABASE__URL"]
    port = free_port()
    environ = stack.environ | {"TOLLWAY_DATABASE__URL": url}
    command = [TOLLWAY, "api", "--port", str(port), "--wire-only"]
    process = subprocess.Popen(command, cwd=stack.folder, env=environ, stderr=subprocess.DEVNULL)
    try:
        wait_ready(port, lambda: None)
        gpt = clients(port)[0]
        assert gpt.chat.completions.create(model="fast", messages=HI).choices
        http = Http(port, ADMIN_KEY)
        assert b"tollway_wire_requests_total" in http.get("/metrics").body
        http.get("/v1/agents").problem(404, "not_found")
        http.post("/v1/runs", {"agent": "x"}).problem(404, "not_found")
        provider.pace(output_tokens=40, tokens_per_s=40)
        stream = gpt.chat.completions.create(model="fast", messages=HI, stream=True)
        said = [next(stream)]
        process.terminate()
        said += stream
        assert said[-1].choices[0].finish_reason == "stop"
        assert len("".join(chunk.choices[0].delta.content or "" for chunk in said).split()) == 40
        assert process.wait(30) == 0
        assert Books(stack).settled()[-1]["kind"] == "settle"
    finally:
        process.kill()
        process.wait()
