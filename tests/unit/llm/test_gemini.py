"""Gemini in detail: its addresses, its subset of schemas, and what the simulated provider never says or asks."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tollway.config import Provider
from tollway.domain.errors import LlmError
from tollway.domain.llm import Delta, LlmRequest, ToolCall, Usage
from tollway.llm.providers import gemini
from tollway.llm.providers.gemini.schema import subset

WIRE = gemini.wire(Provider(kind="gemini", base_url="http://h/v1beta"), "k")
ASK = LlmRequest("fast", [{"role": "user", "content": "Hi"}], 10)
USAGE = (
    b'{"promptTokenCount":10,"candidatesTokenCount":6,"thoughtsTokenCount":3,"cachedContentTokenCount":4,'
    b'"toolUsePromptTokenCount":2,"totalTokenCount":21}'
)


def encoded(request: LlmRequest, model: str = "m") -> Any:
    return msgspec.json.decode(WIRE.encode(request, model))


def test_addresses() -> None:
    """The model is in the address, escaped; streams and embeddings have addresses of their own; the key is a header."""
    assert WIRE.path(ASK, "gem/x") == "/v1beta/models/gem%2Fx:generateContent"
    assert WIRE.path(replace(ASK, stream=True), "m") == "/v1beta/models/m:streamGenerateContent?alt=sse"
    assert WIRE.path(replace(ASK, inputs=("a",)), "m") == "/v1beta/models/m:batchEmbedContents"
    assert WIRE.headers == {"x-goog-api-key": "k"}


def test_request() -> None:
    """System texts are taken out, results go by their function's name, neighbours of one role are put together."""
    calls = [{"id": n, "type": "function", "function": {"name": f"f{n}", "arguments": '{"a":1}'}} for n in "12"]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "A"},
        {"role": "user", "content": [{"type": "text", "text": "B"},
                                     {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}]},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "2", "content": '{"t": 20}'},
    ]  # fmt: skip
    tools = [{"type": "function", "function": {"name": "f1"}}, {"googleSearch": {}}]
    body = encoded(replace(ASK, messages=messages, tools=tools, tool_choice="required", top_p=0.5, stop=("x",)))
    assert body["systemInstruction"] == {"parts": [{"text": "A"}]}
    assert [content["role"] for content in body["contents"]] == ["user", "model", "user"]
    assert body["contents"][0]["parts"][1] == {"inlineData": {"mimeType": "image/png", "data": "QUJD"}}
    assert body["contents"][1]["parts"][0] == {"functionCall": {"name": "f1", "args": {"a": 1}}}
    assert [part["functionResponse"] for part in body["contents"][2]["parts"]] == [
        {"name": "f1", "response": {"result": "sunny"}}, {"name": "f2", "response": {"t": 20}},
    ]  # fmt: skip
    assert body["tools"] == [{"googleSearch": {}}, {"functionDeclarations": [{"name": "f1", "description": "f1"}]}]
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}
    assert body["generationConfig"] == {"maxOutputTokens": 10, "topP": 0.5, "stopSequences": ["x"]}
    signed = encoded(replace(ASK, messages=messages), "gemini-3-pro")["contents"][1]["parts"][0]
    assert "thoughtSignature" in signed


def test_extra_is_laid_into_the_configuration() -> None:
    """Further fields pass, also of generationConfig; those that would spend past the reservation are refused."""
    thinking = {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}, "safetySettings": []}
    body = encoded(replace(ASK, extra=thinking))
    assert body["generationConfig"] == {"maxOutputTokens": 10, "thinkingConfig": {"thinkingBudget": 0}}
    assert body["safetySettings"] == []
    for bad in ({"generationConfig": {"maxOutputTokens": 9}}, {"generation_config": {}}, {"generationConfig": 1}):
        with pytest.raises(LlmError, match=r"generation|Tollway"):
            encoded(replace(ASK, extra=bad))


def test_schema_subset() -> None:
    """References are laid in, null becomes nullable, const an enum; what the vendor refuses is left out."""
    schema = {
        "$defs": {"K": {"enum": ["a", "b"], "type": "string"}, "T": {"type": "object", "properties": {
            "next": {"anyOf": [{"$ref": "#/$defs/T"}, {"type": "null"}]}}}},
        "type": "object",
        "properties": {
            "kind": {"$ref": "#/$defs/K", "description": "which"},
            "one": {"const": "x"},
            "n": {"type": ["integer", "null"], "exclusiveMinimum": 0, "default": 1},
            "list": {"type": "array", "items": {"oneOf": [{"type": "string", "format": "email"}, {"type": "integer"}]}},
            "both": {"allOf": [{"type": "object", "properties": {"p": {"type": "boolean"}}, "required": ["p"]}]},
            "free": {"type": "object", "additionalProperties": True},
        },
        "required": ["kind", "gone"],
        "additionalProperties": False,
    }  # fmt: skip
    made = msgspec.json.decode(subset(schema))
    assert made == {
        "type": "OBJECT",
        "required": ["kind"],
        "properties": {
            "kind": {"type": "STRING", "enum": ["a", "b"], "description": "which"},
            "one": {"type": "STRING", "enum": ["x"]},
            "n": {"type": "INTEGER", "nullable": True},
            "list": {"type": "ARRAY", "items": {"anyOf": [{"type": "STRING"}, {"type": "INTEGER"}]}},
            "both": {"type": "OBJECT", "properties": {"p": {"type": "BOOLEAN"}}, "required": ["p"]},
            "free": {"type": "OBJECT"},
        },
    }
    endless = msgspec.json.encode(subset({"$ref": "#/$defs/T", **schema}))
    assert b"$ref" not in endless
    assert len(endless) < 10_000


def test_answer() -> None:
    """Thought, text and calls are told apart; thoughts count as output, cached input within the prompt."""
    parts = b'[{"text":"hm","thought":true},{"text":"so"},{"functionCall":{"name":"f","args":{"a": 1}}},{"new":1}]'
    body = (
        b'{"candidates":[{"content":{"parts":%b,"role":"model"},"finishReason":"STOP"}],"usageMetadata":%b,'
        b'"modelVersion":"m-1","responseId":"r"}' % (parts, USAGE)
    )
    completion = WIRE.decode(body, ASK)
    assert (completion.text, completion.reasoning, completion.model) == ("so", "hm", "m-1")
    assert (completion.tool_calls, completion.stop_reason) == ((ToolCall("r-0", "f", '{"a": 1}'),), "tool_calls")
    assert completion.usage == Usage(12, 9, 4, 3)
    decoder = WIRE.stream(ASK)
    for size in (1, 50):
        decoder = WIRE.stream(ASK)
        stream = b"data: " + body + b"\r\n\r\n"
        pieces = [piece for at in range(0, len(stream), size) for piece in decoder.feed(stream[at : at + size])]
        assert pieces == [
            Delta("reasoning", "hm"), Delta("text", "so"), Delta("tool", index=0, id="r-0", name="f"),
            Delta("arguments", '{"a": 1}'),
        ]  # fmt: skip
        assert (decoder.done, decoder.completion()) == (True, completion)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":3}}', "refusal"),
        (b'{"candidates":[{"finishReason":"SAFETY"}]}', "content_filter"),
        (b'{"candidates":[{"finishReason":"MAX_TOKENS","content":{"role":"model"}}]}', "length"),
        (b'{"candidates":[{"finishReason":"NEW_ONE"}]}', "stop"),
        (b'{"candidates":[{"content":{"parts":[{"text":"x"}]}}]}', "stop"),
    ],
)
def test_stop_reasons(body: bytes, reason: str) -> None:
    """A blocked prompt is a refusal, a filtered or cut answer says so, and a missing usage is an estimate."""
    completion = WIRE.decode(body, ASK)
    assert (completion.stop_reason, completion.usage.estimated) == (reason, b"usage" not in body)


def test_spoilt_call() -> None:
    """A call of a tool that the vendor could not read is a bad response, charged as the vendor counts it."""
    body = b'{"candidates":[{"finishReason":"MALFORMED_FUNCTION_CALL"}],"usageMetadata":%b}' % USAGE
    with pytest.raises(LlmError, match="spoilt") as caught:
        WIRE.decode(body, ASK)
    assert (caught.value.code, caught.value.billed, caught.value.usage) == ("bad_response", True, Usage(12, 9, 4, 3))


def test_cut_stream() -> None:
    """A stream cut off keeps the vendor's count of the input, and estimates the output from what came."""
    decoder = WIRE.stream(ASK)
    decoder.feed(
        b'data: {"candidates":[{"content":{"parts":[{"text":"12345678"}]}}],"usageMetadata":{"promptTokenCount":7}}\n\n'
    )
    assert not decoder.done
    assert decoder.completion().usage == Usage(7, 2, estimated=True)


@pytest.mark.parametrize(("status", "code"), [("RESOURCE_EXHAUSTED", "rate_limited"), ("INTERNAL", "provider_5xx")])
def test_error_in_a_stream(status: str, code: str) -> None:
    """The vendor's error within a stream is its error, in its words, possibly billed."""
    event = b'data: {"error":{"code":1,"message":"busy","status":"%b"}}\n\n' % status.encode()
    with pytest.raises(LlmError, match="busy") as caught:
        WIRE.stream(ASK).feed(event)
    assert (caught.value.code, caught.value.billed) == (code, True)


def test_embeddings() -> None:
    """Vectors come in the order of the texts; fewer of them than texts are a bad response."""
    asked = replace(ASK, inputs=("a", "b"), extra={"outputDimensionality": 2})
    first = encoded(asked)["requests"][0]
    assert first == {"outputDimensionality": 2, "model": "models/m", "content": {"parts": [{"text": "a"}]}}
    completion = WIRE.decode(b'{"embeddings":[{"values":[1,0]},{"values":[0,1]}]}', asked)
    assert (completion.vectors, completion.usage.estimated) == (((1.0, 0.0), (0.0, 1.0)), True)
    with pytest.raises(LlmError, match="1 vectors for 2"):
        WIRE.decode(b'{"embeddings":[{"values":[1]}]}', asked)
