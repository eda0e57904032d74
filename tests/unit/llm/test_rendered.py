"""Answers written in each wire's form: what our own readers of that form make of them is the answer again."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.llm import Completion, LlmRequest, Sent, ToolCall, Usage
from tollway.llm.providers.anthropic.inbound import InboundMessages
from tollway.llm.providers.anthropic.response import decode as decode_message
from tollway.llm.providers.anthropic.stream import AnthropicStream
from tollway.llm.providers.decoder import StreamDecoder
from tollway.llm.providers.inbound import Fault, Inbound, Stamp, pieces_of
from tollway.llm.providers.openai.inbound_chat import InboundChat
from tollway.llm.providers.openai.inbound_embeddings import InboundEmbeddings
from tollway.llm.providers.openai.inbound_responses import InboundResponses
from tollway.llm.providers.openai.response import decode as decode_chat
from tollway.llm.providers.openai.stream import OpenAiStream

STAMP = Stamp("0" * 32, 1_700_000_000)
USAGE_ASKED = {"stream_options": msgspec.Raw(b'{"include_usage":true}')}
ASK = LlmRequest("fast", [{"role": "user", "content": "Hi"}], 50, stream=True, sent=Sent("openai.chat", USAGE_ASKED))
FAULT = Fault(429, "rate_limited", "slow down", "model")

Reader = tuple[Inbound, Callable[[bytes, LlmRequest], Completion], Callable[[LlmRequest], StreamDecoder]]
READ: dict[str, Reader] = {
    "chat": (InboundChat(), decode_chat, OpenAiStream),
    "messages": (InboundMessages(), decode_message, AnthropicStream),
}

CALLS = st.lists(
    st.builds(
        ToolCall,
        id=st.text("abc123", min_size=1, max_size=5),
        name=st.text("xyz_", min_size=1, max_size=5),
        arguments=st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2).map(
            lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        ),
    ),
    max_size=3,
).map(tuple)
COMPLETIONS = st.builds(
    lambda text, calls, usage, length: Completion(
        text, calls, usage, "tool_calls" if calls else "length" if length else "stop", "m-1"
    ),
    st.text(max_size=20),
    CALLS,
    st.builds(
        Usage, input_tokens=st.integers(10, 99), output_tokens=st.integers(0, 99), cached_tokens=st.integers(0, 9)
    ),
    st.booleans(),
)  # fmt: skip


@pytest.mark.parametrize("form", READ)
@given(completion=COMPLETIONS)
def test_a_whole_answer_says_the_same(form: str, completion: Completion) -> None:
    """Text, calls, usage and reason of an answer written in a wire's form are read from it unchanged."""
    inbound, decode, _ = READ[form]
    assert decode(inbound.answer(completion, ASK, STAMP), ASK) == completion


@pytest.mark.parametrize("form", READ)
@given(completion=COMPLETIONS)
def test_a_streamed_answer_says_the_same(form: str, completion: Completion) -> None:
    """The same answer, streamed piece by piece, is whole and says the same but for the model's name."""
    inbound, _, reader = READ[form]
    writer, decoder = inbound.stream(ASK, STAMP), reader(ASK)
    for piece in pieces_of(completion):
        decoder.feed(writer.deltas([piece]))
    decoder.feed(writer.end(completion))
    assert decoder.done
    found = decoder.completion()
    assert (found.text, found.tool_calls, found.stop_reason) == (
        completion.text,
        completion.tool_calls,
        completion.stop_reason,
    )
    assert found.usage == completion.usage


def events(stream: bytes) -> list[dict[str, Any]]:
    """The data of a stream's events, each of which names its type twice."""
    found = []
    for block in stream.decode().split("\n\n")[:-1]:
        name, data = block.split("\n", 1)
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


@given(completion=COMPLETIONS)
def test_the_events_of_a_response_are_in_order(completion: Completion) -> None:
    """They are numbered without a gap, from created to the end; each item is added and done, and stands in the end."""
    writer = InboundResponses().stream(ASK, STAMP)
    told = events(b"".join(writer.deltas([piece]) for piece in pieces_of(completion)) + writer.end(completion))
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    kinds = [event["type"] for event in told]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == ("response.incomplete" if completion.stop_reason == "length" else "response.completed")
    added = [event["item"]["id"] for event in told if event["type"] == "response.output_item.added"]
    done = [event["item"] for event in told if event["type"] == "response.output_item.done"]
    whole = told[-1]["response"]
    assert added == [item["id"] for item in done]
    assert whole["output"] == done
    assert whole == json.loads(InboundResponses().answer(completion, ASK, STAMP))
    text = "".join(event["delta"] for event in told if event["type"] == "response.output_text.delta")
    assert text == completion.text
    calls = [(item["call_id"], item["name"], item["arguments"]) for item in done if item["type"] == "function_call"]
    assert calls == [(call.id, call.name, call.arguments) for call in completion.tool_calls]


CHUNK = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"usage":null}\n\n'
FILTERED = b'data: {"id":"x","choices":[],"prompt_filter_results":[]}\n\n'
COUNTED = b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


@given(st.lists(st.integers(0, len(FILTERED + CHUNK + COUNTED + DONE)), max_size=6))
def test_usage_nobody_asked_for_is_kept_back(cuts: list[int]) -> None:
    """The chunk that tells the usage, which only Tollway asked for, is left out however the bytes arrive."""
    sent = FILTERED + CHUNK + COUNTED + DONE
    plain = InboundChat().stream(LlmRequest("fast", [], 1, sent=Sent("openai.chat", {})), STAMP)
    asked = InboundChat().stream(ASK, STAMP)
    given_on, with_usage = b"", b""
    edges = [0, *sorted(cuts), len(sent)]
    for begin, end in pairwise(edges):
        given_on += plain.passed(sent[begin:end])
        with_usage += asked.passed(sent[begin:end])
    assert given_on + plain.rest() == FILTERED + CHUNK + DONE
    assert with_usage + asked.rest() == sent


def test_vectors_as_numbers_and_as_base64() -> None:
    """Embeddings are told as numbers, or packed as the vendor's SDK asks for them by default."""
    completion = Completion("", (), Usage(3), "stop", "m", vectors=((0.5, -1.0), (0.25, 2.0)))
    inbound = InboundEmbeddings()
    plain = json.loads(inbound.answer(completion, LlmRequest("e", [], 0), STAMP))
    assert [one["embedding"] for one in plain["data"]] == [[0.5, -1.0], [0.25, 2.0]]
    assert plain["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    packed = LlmRequest("e", [], 0, sent=Sent("openai.embeddings", {"encoding_format": msgspec.Raw(b'"base64"')}))
    assert json.loads(inbound.answer(completion, packed, STAMP))["data"][0]["embedding"] == "AAAAPwAAgL8="


@pytest.mark.parametrize("form", [InboundChat(), InboundResponses(), InboundEmbeddings()], ids=lambda form: form.form)
def test_errors_of_openai(form: Inbound) -> None:
    """An error has the four fields that this vendor's SDKs read."""
    error = json.loads(form.error(FAULT))["error"]
    assert error == {
        "message": "slow down",
        "type": "rate_limit_error",
        "param": "model",
        "code": "rate_limit_exceeded",
    }
    unknown = json.loads(form.error(Fault(404, "unknown_tier", "no such tier")))["error"]
    assert (unknown["type"], unknown["code"]) == ("invalid_request_error", "model_not_found")


def test_errors_of_anthropic() -> None:
    """An error has the type that this vendor's SDKs read."""
    assert json.loads(InboundMessages().error(FAULT)) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "slow down"},
    }
    assert json.loads(InboundMessages().error(Fault(400, "invalid_request", "no")))["error"]["type"] == (
        "invalid_request_error"
    )


@pytest.mark.parametrize("form", [InboundChat(), InboundResponses(), InboundMessages()], ids=lambda form: form.form)
def test_a_stream_that_breaks_says_so(form: Inbound) -> None:
    """A stream that cannot go on ends with an error in the wire's form."""
    broken = form.stream(ASK, STAMP).broken(FAULT)
    data = json.loads(broken.split(b"data: ")[1])
    assert "slow down" in json.dumps(data)
    assert data.get("type", "error") == "error"
