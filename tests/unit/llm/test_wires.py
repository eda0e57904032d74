"""The vendors' forms in detail: what the simulated provider never says or asks."""

from typing import Any

import msgspec
import pytest

from tollway.config import Provider
from tollway.domain.errors import LlmError
from tollway.domain.llm import Delta, LlmRequest, ToolCall, Usage
from tollway.llm.providers import anthropic, openai
from tollway.llm.providers.sse import SseReader
from tollway.llm.schema import prepare, unwrap

OPENAI = openai.wire(Provider(kind="openai", base_url="http://h/v1"), None)
ANTHROPIC = anthropic.wire(Provider(kind="anthropic", base_url="http://h"), None)
ASK = LlmRequest("fast", [{"role": "user", "content": "Hi"}], 10)


def test_anthropic_request() -> None:
    """System texts are taken out, tool results of one turn join one message, images change their form."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "A"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
                {"id": "2", "type": "function", "function": {"name": "f", "arguments": ""}},
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "x"},
        {"role": "tool", "tool_call_id": "2", "content": "y"},
    ]
    body = msgspec.json.decode(ANTHROPIC.encode(LlmRequest("fast", messages, 10), "m"))
    assert body["system"] == "A"
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][0]["content"][0]["source"]["data"] == "QUJD"
    assert [block["input"] for block in body["messages"][1]["content"]] == [{"a": 1}, {}]
    assert [block["tool_use_id"] for block in body["messages"][2]["content"]] == ["1", "2"]


def test_anthropic_bad_arguments() -> None:
    """Tool arguments that are no JSON object cannot be sent on this wire, and are refused before they are."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{oops"}}
    with pytest.raises(LlmError, match="Anthropic"):
        ANTHROPIC.encode(LlmRequest("fast", [{"role": "assistant", "content": None, "tool_calls": [call]}], 1), "m")


def test_usage_with_caches() -> None:
    """Anthropic's input excludes cached tokens and ours includes them; OpenAI's includes them already."""
    body = (
        b'{"content":[{"type":"thinking","thinking":"hm"},{"type":"text","text":"x"}],"model":"m","stop_reason":"max_tokens",'
        b'"usage":{"input_tokens":5,"output_tokens":7,"cache_read_input_tokens":100,"cache_creation_input_tokens":30,'
        b'"cache_creation":{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20}}}'
    )
    completion = ANTHROPIC.decode(body, ASK)
    assert completion.usage == Usage(135, 7, 100, cache_write_tokens=30, cache_write_long_tokens=20)
    assert (completion.text, completion.stop_reason) == ("x", "length")
    body = (
        b'{"choices":[{"message":{"content":"x"},"finish_reason":"content_filter"}],"usage":{"prompt_tokens":10,'
        b'"completion_tokens":9,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":3}}}'
    )
    completion = OPENAI.decode(body, ASK)
    assert (completion.usage, completion.stop_reason) == (Usage(10, 9, 4, 3), "content_filter")


def test_missing_usage_is_estimated() -> None:
    """A server that tells no usage leaves an estimate, marked as one."""
    assert OPENAI.decode(b'{"choices":[{"message":{"content":"four"}}]}', ASK).usage.estimated
    assert ANTHROPIC.decode(b'{"content":[{"type":"text","text":"four"}]}', ASK).usage.estimated


def test_refusal() -> None:
    """A refusal is told apart from an answer on both wires."""
    refusal = b'{"choices":[{"message":{"content":null,"refusal":"No."},"finish_reason":"stop"}]}'
    assert OPENAI.decode(refusal, ASK).stop_reason == "refusal"
    assert ANTHROPIC.decode(b'{"content":[],"stop_reason":"refusal"}', ASK).stop_reason == "refusal"


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff", b'{"choices":[]}', b'{"content":1}', b"[" * 100_000])
@pytest.mark.parametrize("wire", [OPENAI, ANTHROPIC])
def test_garbage(wire: Any, body: bytes) -> None:
    """Whatever cannot be read is `bad_response`, possibly billed."""
    with pytest.raises(LlmError) as caught:
        wire.decode(body, ASK)
    assert (caught.value.code, caught.value.billed) == ("bad_response", True)


def test_stream_in_any_chunks() -> None:
    """A stream means the same however its bytes are cut, with CRLF and comments, its tool calls put together."""
    chunks = (
        ': hello\r\n\r\ndata: {"choices":[{"delta":{"content":"Grüße"}}],"model":"m"}\r\n\r\n'
        'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"t","function":{"name":"f","arguments":"{"}}]}}]}\n'
        '\ndata: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]},'
        '"finish_reason":"tool_calls"}]}\n\n'
        'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\ndata: [DONE]\n\n'
    ).encode()
    for size in (1, 7, len(chunks)):
        decoder = OPENAI.stream(ASK)
        pieces = [piece for at in range(0, len(chunks), size) for piece in decoder.feed(chunks[at : at + size])]
        completion = decoder.completion()
        assert [piece for piece in pieces if piece.kind == "text"] == [Delta("text", "Grüße")]
        assert [piece for piece in pieces if piece.kind != "text"] == [
            Delta("tool", index=0, id="t", name="f"), Delta("arguments", "{"), Delta("arguments", "}"),
        ]  # fmt: skip
        assert decoder.done
        assert completion.tool_calls == (ToolCall("t", "f", "{}"),)
        assert (completion.usage, completion.stop_reason) == (Usage(1, 2), "tool_calls")


@pytest.mark.parametrize(
    ("wire", "event", "code"),
    [
        (OPENAI, b'data: {"error":{"message":"busy"}}\n\n', "provider_5xx"),
        (ANTHROPIC, b'data: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n', "provider_5xx"),
        (ANTHROPIC, b'data: {"type":"error","error":{"type":"rate_limit_error","message":"busy"}}\n\n', "rate_limited"),
    ],
)
def test_error_in_a_stream(wire: Any, event: bytes, code: str) -> None:
    """A vendor's error within a stream is its error, in its words, possibly billed."""
    with pytest.raises(LlmError, match="busy") as caught:
        wire.stream(ASK).feed(event)
    assert (caught.value.code, caught.value.billed) == (code, True)


def test_events_are_bounded() -> None:
    """An event without end is given up instead of filling the memory."""
    reader = SseReader()
    with pytest.raises(LlmError, match="exceeds"):
        reader.feed(b"data: " + b"x" * 5_000_000)


def test_strict_schema() -> None:
    """Objects are closed and all properties required; free-form objects give strictness up; other roots are wrapped."""
    schema = {"type": "object", "properties": {"a": {"type": "integer", "default": 1}}}
    strict = prepare(schema).strict
    assert strict is not None
    assert msgspec.json.decode(strict) == {
        "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False,
    }  # fmt: skip
    assert prepare({"type": "object", "additionalProperties": {"type": "integer"}}).strict is None
    wrapped = prepare({"type": "array", "items": {"$ref": "#/$defs/T"}, "$defs": {"T": {"type": "string"}}})
    assert wrapped.wrapped
    assert "$defs" in msgspec.json.decode(wrapped.plain)
    assert (unwrap('{"value": [1]}'), unwrap("oops")) == ("[1]", "oops")
