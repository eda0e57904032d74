"""OpenAI's Responses API in detail: what the simulated provider never says or asks."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tollway.config import Provider
from tollway.domain.errors import LlmError
from tollway.domain.llm import Delta, LlmRequest, ToolCall, Usage
from tollway.llm.providers import openai

WIRE = openai.wire(Provider(kind="openai", base_url="http://h/v1", api="responses"), None)
ASK = LlmRequest("fast", [{"role": "user", "content": "Hi"}], 10)
OUTPUT = (
    b'[{"type":"reasoning","summary":[{"type":"summary_text","text":"hm"}]},{"type":"web_search_call","id":"w"},'
    b'{"type":"message","role":"assistant","content":[{"type":"output_text","text":"so"}]},'
    b'{"type":"function_call","id":"fc","call_id":"t","name":"f","arguments":"{}"}]'
)
USAGE = (
    b'{"input_tokens":10,"input_tokens_details":{"cached_tokens":4},"output_tokens":9,'
    b'"output_tokens_details":{"reasoning_tokens":3},"total_tokens":19}'
)


def encoded(request: LlmRequest) -> Any:
    return msgspec.json.decode(WIRE.encode(request, "m"))


def test_messages_become_items() -> None:
    """Calls and their results are items of their own, parts take this form's names, and nothing is stored."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "A"},
        {"role": "user", "content": [{"type": "text", "text": "B"}, {"type": "image_url", "image_url": {"url": "u"}}]},
        {"role": "assistant", "content": [{"type": "text", "text": "C"}], "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "x"},
    ]
    body = encoded(replace(ASK, messages=messages))
    assert body["input"] == [
        {"role": "system", "content": "A"},
        {"role": "user", "content": [
            {"type": "input_text", "text": "B"}, {"type": "input_image", "image_url": "u", "detail": "auto"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "C"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "1", "output": "x"},
    ]  # fmt: skip
    assert (body["store"], body["max_output_tokens"], "stream" in body) == (False, 10, False)


def test_tools_and_schema() -> None:
    """Functions lose their envelope and are not strict unasked; the schema goes under text.format."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    choice = {"type": "function", "function": {"name": "f"}}
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    body = encoded(replace(ASK, tools=[tool, {"type": "web_search"}], tool_choice=choice, schema=schema))
    assert body["tools"] == [
        {"type": "function", "strict": False, "name": "f", "parameters": {"type": "object"}}, {"type": "web_search"},
    ]  # fmt: skip
    assert body["tool_choice"] == {"type": "function", "name": "f"}
    told = body["text"]["format"]
    assert (told["type"], told["name"], told["strict"]) == ("json_schema", "answer", True)


@pytest.mark.parametrize(
    "change",
    [
        {"stop": ("x",)},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"extra": {"background": True}},
        {"extra": {"max_output_tokens": 10**6}},
    ],
)
def test_refused(change: dict[str, Any]) -> None:
    """What this form cannot carry, or would spend past the reservation, is refused before it is sent."""
    with pytest.raises(LlmError) as caught:
        WIRE.encode(replace(ASK, **change), "m")
    assert (caught.value.code, caught.value.final) == ("refused", True)


def test_answer() -> None:
    """Text, reasoning and calls are told apart; cached and reasoning tokens are counted; unknown items are skipped."""
    body = b'{"status":"completed","model":"m","output":%b,"usage":%b}' % (OUTPUT, USAGE)
    completion = WIRE.decode(body, ASK)
    assert (completion.text, completion.reasoning, completion.stop_reason) == ("so", "hm", "tool_calls")
    assert completion.tool_calls == (ToolCall("t", "f", "{}"),)
    assert completion.usage == Usage(10, 9, 4, 3)


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (b'"status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"output":[]', "length"),
        (b'"status":"incomplete","incomplete_details":{"reason":"content_filter"},"output":[]', "content_filter"),
        (b'"output":[{"type":"message","content":[{"type":"refusal","refusal":"No."}]}]', "refusal"),
        (b'"output":[]', "stop"),
    ],
)
def test_stop_reasons(rest: bytes, reason: str) -> None:
    """An answer that was cut short or refused says so; a missing usage is an estimate."""
    completion = WIRE.decode(b"{%b}" % rest, ASK)
    assert (completion.stop_reason, completion.usage.estimated) == (reason, True)


@pytest.mark.parametrize(("code", "known"), [("rate_limit_exceeded", "rate_limited"), ("x", "provider_5xx")])
def test_failed(code: str, known: str) -> None:
    """A response that failed is an error, though its status was 200; so is one that fails within its stream."""
    body = b'{"status":"failed","error":{"code":"%b","message":"busy"},"output":[]}' % code.encode()
    with pytest.raises(LlmError, match="busy") as caught:
        WIRE.decode(body, ASK)
    assert (caught.value.code, caught.value.billed) == (known, True)
    for event in (
        b'{"type":"response.failed","response":%b}' % body,
        b'{"type":"error","code":"%b","message":"busy"}' % code.encode(),
        b'{"type":"error","error":{"code":"%b","message":"busy"}}' % code.encode(),
    ):
        with pytest.raises(LlmError, match="busy") as caught:
            WIRE.stream(ASK).feed(b"data: %b\n\n" % event)
        assert (caught.value.code, caught.value.billed) == (known, True)


def test_stream_in_any_chunks() -> None:
    """A stream means the same however its bytes are cut; before its last event it is an estimate of what came."""
    events = [
        b'{"type":"response.created","response":{"output":[]}}',
        b'{"type":"response.output_item.added","output_index":0,"item":{"type":"reasoning","id":"r"}}',
        b'{"type":"response.reasoning_summary_text.delta","output_index":0,"delta":"hm"}',
        b'{"type":"response.output_item.added","output_index":1,"item":{"type":"message","content":[]}}',
        b'{"type":"response.output_text.delta","output_index":1,"delta":"so"}',
        b'{"type":"response.output_item.added","output_index":2,"item":{"type":"function_call","call_id":"t","name":"f"}}',
        b'{"type":"response.function_call_arguments.delta","output_index":2,"delta":"{}"}',
        b'{"type":"response.something_new.delta","delta":{"a":1}}',
    ]
    last = b'{"type":"response.completed","response":{"status":"completed","output":%b,"usage":%b}}' % (OUTPUT, USAGE)
    begun = b"".join(b"event: x\ndata: %b\n\n" % event for event in events)
    ended = b"event: x\ndata: %b\n\n" % last
    for size in (1, 7, 10_000):
        decoder = WIRE.stream(ASK)
        pieces = [piece for at in range(0, len(begun), size) for piece in decoder.feed(begun[at : at + size])]
        assert pieces == [
            Delta("reasoning", "hm"), Delta("text", "so"), Delta("tool", index=0, id="t", name="f"),
            Delta("arguments", "{}"),
        ]  # fmt: skip
        part = decoder.completion()
        assert (part.text, part.reasoning, part.usage.estimated, decoder.done) == ("so", "hm", True, False)
        assert part.tool_calls == (ToolCall("t", "f", "{}"),)
        decoder.feed(ended)
        assert (decoder.done, decoder.completion().usage) == (True, Usage(10, 9, 4, 3))
