"""A real small model on this machine's CPU, served by llama.cpp, through the whole of Tollway: `make demo-local`."""

import contextlib
import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stack_kit import Http, Stack, free_port, until

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

from local_agents import TOPICS, unseen  # noqa: E402 - found by the path above
from local_model import settings  # noqa: E402
from local_server import CONTEXT_TOKENS, MODEL, LocalServer, NoLocalModel, model_file  # noqa: E402


def _missing() -> str | None:
    """Why there is no model here, if there is none."""
    try:
        model_file()
    except NoLocalModel as error:
        return str(error)
    return None


pytestmark = pytest.mark.skipif(_missing() is not None, reason=_missing() or "")

QUESTION = [{"role": "user", "content": "Say in one sentence what a bank does."}]
CHAT = {"model": "fast", "messages": QUESTION, "max_tokens": 40, "temperature": 0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """The model's server."""
    started = LocalServer(free_port(), tmp_path_factory.mktemp("model") / "model.log")
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def local(server: LocalServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    """A Tollway whose only route leads to it."""
    folder = tmp_path_factory.mktemp("tollway")
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    toml = settings(int(server.url.rpartition(":")[2]))
    stack = Stack(folder, "local_agents", settings=toml, PYTHONPATH=str(EXAMPLES))
    try:
        yield stack.ready().http
        assert stack.stop() == 0, stack.tail()
    finally:
        stack.stop()


def asked(server: LocalServer, operation: str, body: dict[str, Any]) -> Any:
    """What the model's server itself answers."""
    request = urllib.request.Request(f"{server.url}/{operation}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def tokens_of(server: LocalServer, messages: list[dict[str, str]]) -> int:
    """How many tokens the model's own tokenizer makes of these messages in the model's own template."""
    prompt = asked(server, "apply-template", {"messages": messages})["prompt"]
    return len(asked(server, "tokenize", {"content": prompt, "parse_special": True})["tokens"])


def streamed(http: Http, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Every chunk of a streamed completion, which must end with [DONE]."""
    with http.stream("POST", "/v1/chat/completions", {**body, "stream": True}) as (head, frames):
        assert head.status == 200, head.body
        datas = [frame["data"] for frame in frames]
    assert datas[-1] == "[DONE]"
    return [json.loads(data) for data in datas[:-1]]


def test_a_chat_completion_has_the_model_s_own_count(local: Http, server: LocalServer) -> None:
    """Over the wire a real model's answer comes with its stop reason, its route, and the tokens its tokenizer makes."""
    answer = local.post("/v1/chat/completions", CHAT)
    assert answer.status == 200, answer.body
    choice, usage = answer.json["choices"][0], answer.json["usage"]
    assert choice["message"]["content"].strip()
    assert choice["finish_reason"] in ("stop", "length")
    assert usage["prompt_tokens"] == tokens_of(server, QUESTION)
    assert 0 < usage["completion_tokens"] <= 40
    assert (answer.headers["x-tollway-route"], float(answer.headers["x-tollway-cost-usd"])) == ("local-fast", 0)


def test_a_bound_on_the_output_reaches_the_model(local: Http) -> None:
    """`max_tokens` ends a real answer after as many tokens, and the stop reason says so."""
    answer = local.post("/v1/chat/completions", {**CHAT, "max_tokens": 5})
    assert answer.json["choices"][0]["finish_reason"] == "length"
    assert answer.json["usage"]["completion_tokens"] == 5


def test_a_stream_is_the_same_answer_and_ends_with_its_usage(local: Http) -> None:
    """A streamed answer comes in pieces, is the plain one put together, and its usage is the plain one's."""
    plain = local.post("/v1/chat/completions", CHAT).json
    chunks = streamed(local, {**CHAT, "stream_options": {"include_usage": True}})
    texts = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(texts) == plain["choices"][0]["message"]["content"]
    assert sum(bool(text) for text in texts) > 3
    told = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert len(told) == 1
    for name in ("prompt_tokens", "completion_tokens"):
        assert told[0][name] == plain["usage"][name]


def test_usage_is_only_streamed_to_whom_it_concerns(local: Http) -> None:
    """A client that did not ask for usage gets none in its stream, though Tollway itself asked the server."""
    assert not [chunk for chunk in streamed(local, CHAT) if chunk.get("usage") or not chunk["choices"]]


def test_the_model_is_held_to_a_schema(local: Http) -> None:
    """With `response_format` even a model this small answers in the form asked for."""
    schema = {
        "type": "object",
        "properties": {"topic": {"type": "string", "enum": ["bank", "zoo"]}, "sure": {"type": "boolean"}},
        "required": ["topic", "sure"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "about", "strict": True, "schema": schema}}
    answer = local.post("/v1/chat/completions", {**CHAT, "response_format": form})
    found = json.loads(answer.json["choices"][0]["message"]["content"])
    assert set(found) == {"topic", "sure"}
    assert found["topic"] in ("bank", "zoo")
    assert isinstance(found["sure"], bool)


def test_a_run_is_charged_what_the_model_counted(local: Http, server: LocalServer) -> None:
    """P10: a run's tokens are, to the token, those that the model's server counted; a kept answer asks it nothing."""
    before = server.counted()
    text, _ = unseen(1)[0]
    run = local.result("sort_message", text)
    assert run["state"] == "succeeded", run
    assert run["output"]["topic"] in TOPICS.values()
    after = server.counted()
    used = {"input": "input_tokens", "cached": "cached_tokens", "output": "output_tokens"}
    assert {name: after[name] - before[name] for name in used} == {
        name: run["usage"][key] for name, key in used.items()
    }
    step = local.steps(run["id"])[0]
    assert (step["route"], step["cached"]) == ("local-fast", False)
    again = local.result("sort_message", text)
    assert again["output"] == run["output"]
    assert local.steps(again["id"])[0]["cached"]
    assert server.counted() == after


def test_whoever_follows_a_run_reads_along(local: Http) -> None:
    """An agent's stream of a real model reaches the events as tokens, which together are the run's output."""
    run = local.submit("explain", "What is a debit card?")
    with local.stream("GET", f"/v1/runs/{run['id']}/events") as (head, frames):
        assert head.status == 200
        tokens = [json.loads(frame["data"])["data"]["text"] for frame in frames if frame.get("event") == "token"]
    ended = local.ended(run["id"])
    assert ended["state"] == "succeeded", ended
    assert len(tokens) > 3
    assert ended["output"].endswith("".join(tokens))


def test_what_exceeds_the_window_is_never_sent(local: Http, server: LocalServer) -> None:
    """P11: a prompt larger than the model's window is refused at the door, and the model's server hears nothing."""
    before = server.counted()
    answer = local.post("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": "word " * 4000}]})
    assert answer.status == 400, answer.body
    assert str(CONTEXT_TOKENS - 48) in answer.json["error"]["message"]
    assert server.counted() == before


def test_a_model_can_be_asked_for_by_its_name(local: Http) -> None:
    """`model` may be the model itself instead of a tier."""
    answer = local.post("/v1/chat/completions", {**CHAT, "model": MODEL, "max_tokens": 3})
    assert answer.status == 200, answer.body
    assert answer.headers["x-tollway-route"] == "local-fast"


def test_an_operation_the_server_lacks_closes_nothing(local: Http) -> None:
    """Embeddings, which this server has not, are refused as the client's fault however often asked for; chats go on."""
    for _ in range(24):
        answer = local.post("/v1/embeddings", {"model": "fast", "input": "bank"})
        assert (answer.status, answer.json["error"]["code"]) == (400, "refused"), answer.body
    assert "embeddings" in answer.json["error"]["message"]
    assert local.items("/v1/routes")[0]["breaker"]["state"] == "closed"
    assert local.post("/v1/chat/completions", {**CHAT, "max_tokens": 3}).status == 200


def test_the_other_wires_reach_the_same_model(local: Http, server: LocalServer) -> None:
    """Anthropic's messages and OpenAI's Responses are answered by it too, with the same count of what they asked."""
    tokens = tokens_of(server, QUESTION)
    messages = local.post("/v1/messages", {"model": "fast", "max_tokens": 5, "messages": QUESTION})
    assert messages.status == 200, messages.body
    used = messages.json["usage"]
    assert used["input_tokens"] + used["cache_read_input_tokens"] == tokens
    assert (messages.json["stop_reason"], used["output_tokens"]) == ("max_tokens", 5)
    body = {"model": "fast", "max_output_tokens": 16, "input": QUESTION[0]["content"]}
    responses = local.post("/v1/responses", body)
    assert responses.status == 200, responses.body
    assert responses.json["usage"]["input_tokens"] == tokens
    assert responses.json["output"][0]["content"][0]["text"]


def test_a_client_that_leaves_frees_the_model(local: Http, server: LocalServer) -> None:
    """A stream left early ends upstream too: the server stops writing, and its one place is free for the next call."""
    body = {**CHAT, "max_tokens": 1500, "ignore_eos": True}  # the server's own field: without it the model might end
    with local.stream("POST", "/v1/chat/completions", {**body, "stream": True}) as (head, frames):
        assert head.status == 200, head.body
        assert next(frames)["data"]

    def idle() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{server.url}/metrics", timeout=20) as told:
            return b"requests_processing 0\n" in told.read()
        return False

    written = server.counted()["output"]
    until(idle, "the model to stop")
    assert server.counted()["output"] - written < 1500, "the answer was written to its end"
    assert local.post("/v1/chat/completions", {**CHAT, "max_tokens": 3}).status == 200
