"""What passes through to vendors, what never does, and answers to a schema asked for in words."""

import base64
from array import array
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from llm_kit import answering, plan_on_first, serving
from tollway.config import Price, Provider, Route
from tollway.domain.errors import LlmError
from tollway.domain.llm import LlmRequest, Sent
from tollway.llm.gateway import Gateway, GatewayOptions
from tollway.llm.providers import anthropic, openai, wire_of
from tollway.llm.providers.wire import Wire
from tollway.spend.prices import Prices

ASK = LlmRequest("fast", [{"role": "user", "content": "Hi"}], 10)
SCHEMA = {"type": "array", "items": {"type": "integer"}}
OPENAI = openai.wire(Provider(kind="openai", base_url="https://api.openai.com/v1"), None)
RESPONSES = openai.wire(Provider(kind="openai", base_url="http://h/v1", api="responses"), None)
ANTHROPIC = anthropic.wire(Provider(kind="anthropic", base_url="http://h"), None)
EMULATED = wire_of("p", Provider(kind="openai", base_url="http://h/v1", structured="emulated"), {})


def sent(form: str, **fields: bytes) -> LlmRequest:
    return replace(ASK, sent=Sent(form, {name: Raw(value) for name, value in fields.items()}))


def encoded(wire: Wire, request: LlmRequest) -> Any:
    return msgspec.json.decode(wire.encode(request, "m"))


def test_the_bound_of_output_has_the_vendors_name() -> None:
    """Under whatever names a client bounds the output, the vendor gets one bound, ours, under its own name."""
    request = sent("openai.chat", max_tokens=b"7", max_completion_tokens=b"8", messages=b"[]")
    assert encoded(OPENAI, request) == {"model": "m", "max_completion_tokens": 10, "messages": []}


def test_usage_is_always_asked_for() -> None:
    """A stream's usage is asked for whatever the client said, beside its other options; a plain call has none."""
    request = sent("openai.chat", stream_options=b'{"include_usage":false,"x":1}')
    streamed = encoded(OPENAI, replace(request, stream=True))
    assert (streamed["stream"], streamed["stream_options"]) == (True, {"include_usage": True, "x": 1})
    assert encoded(OPENAI, request).keys() == {"model", "max_completion_tokens"}


@pytest.mark.parametrize(
    ("wire", "request_"),
    [
        (OPENAI, sent("openai.chat", n=b"2")),
        (OPENAI, sent("openai.chat", n=b"[")),
        (OPENAI, replace(sent("openai.chat", stream_options=b"5"), stream=True)),
        (RESPONSES, sent("openai.responses", background=b"true")),
        (RESPONSES, sent("openai.responses", n=b"3")),
    ],
)
def test_never_more_than_is_reserved(wire: Wire, request_: LlmRequest) -> None:
    """P4: a client cannot ask for several answers, or for one past the books: it is refused before it is sent."""
    with pytest.raises(LlmError) as caught:
        wire.encode(request_, "m")
    assert (caught.value.code, caught.value.final) == ("refused", True)


def test_another_form_is_put_in_the_vendors() -> None:
    """A request that came in another vendor's form is sent by its meaning; the answer carries the vendor's form."""
    request = sent("openai.chat", messages=b'[{"role":"user","content":"no"}]', x_new=b"1")
    body = encoded(ANTHROPIC, request)
    assert body == {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}
    answer = b'{"content":[{"type":"text","text":"x"}]}'
    completion = ANTHROPIC.decode(answer, request)
    assert (completion.form, completion.body) == ("anthropic.messages", answer)
    assert ANTHROPIC.decode(answer, ASK).body == b""
    assert (OPENAI.in_kind(request), ANTHROPIC.in_kind(request), OPENAI.in_kind(ASK)) == (True, False, False)
    assert EMULATED.in_kind(request)
    assert not EMULATED.in_kind(replace(request, schema=SCHEMA))


def test_a_clients_own_schema_is_not_unwrapped() -> None:
    """Where the client sent its schema itself, its answer is given back as the model made it."""
    answer = b'{"choices":[{"message":{"content":"{\\"value\\":[1]}"}}]}'
    request = replace(sent("openai.chat"), schema=SCHEMA)
    assert OPENAI.decode(answer, request).text == '{"value":[1]}'
    assert OPENAI.decode(answer, replace(ASK, schema=SCHEMA)).text == "[1]"


def test_anthropic_choices() -> None:
    """The choice of tools and the sampling are put in the vendor's words; an answer's tool is forced beside others."""
    tool = {"type": "function", "function": {"name": "f"}}
    named = {"type": "function", "function": {"name": "f"}}

    def choice(**change: Any) -> Any:
        return encoded(ANTHROPIC, replace(ASK, **{"tools": [tool], **change})).get("tool_choice")

    assert choice() is None
    assert choice(tool_choice="required") == {"type": "any"}
    assert choice(tool_choice="none") == {"type": "none"}
    assert choice(tool_choice=named) == {"type": "tool", "name": "f"}
    assert choice(schema=SCHEMA) == {"type": "any"}
    assert choice(schema=SCHEMA, tool_choice="none") == {"type": "tool", "name": "answer"}
    assert choice(schema=SCHEMA, extra={"thinking": {"type": "enabled"}}) is None
    with pytest.raises(LlmError, match="Anthropic"):
        choice(tool_choice="perhaps")
    body = encoded(ANTHROPIC, replace(ASK, top_p=0.5, stop=("x",)))
    assert (body["top_p"], body["stop_sequences"]) == (0.5, ["x"])


def test_anthropic_thinking() -> None:
    """Thinking is told apart from the answer, whole and streamed."""
    body = b'{"content":[{"type":"thinking","thinking":"hm","signature":"s"},{"type":"text","text":"x"}]}'
    assert ANTHROPIC.decode(body, ASK).reasoning == "hm"
    decoder = ANTHROPIC.stream(ASK)
    pieces = decoder.feed(
        b'data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":""}}\n\n'
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}\n\n'
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"s"}}\n\n'
    )
    assert [(piece.kind, piece.text) for piece in pieces] == [("reasoning", "hm")]
    assert (decoder.completion().text, decoder.completion().reasoning) == ("", "hm")


@pytest.mark.parametrize(
    ("said", "meant"),
    [("[1]", "[1]"), (" [1]\n", "[1]"), ("```json\n[1]\n```", "[1]"), ("```\n[1]\n```", "[1]"),
     ("Here it is:\n```json\n[1]\n```\nDone.", "[1]"), ("```json\n[1]", "[1]"), ("nothing", "nothing"),
     ('{"a":"```x```"}', '{"a":"```x```"}')],
)  # fmt: skip
def test_fences_are_taken_off(said: str, meant: str) -> None:
    """Of an answer to a schema asked for in words nothing but the JSON is left; without a schema it stays as it is."""
    body = msgspec.json.encode({"choices": [{"message": {"content": said}}]})
    assert EMULATED.decode(body, replace(ASK, schema=SCHEMA)).text == meant
    assert EMULATED.decode(body, ASK).text == said
    event = msgspec.json.encode({"choices": [{"delta": {"content": said}}]})
    decoder = EMULATED.stream(replace(ASK, schema=SCHEMA))
    decoder.feed(b"data: " + event + b"\n\n")
    assert decoder.completion().text == meant


def test_a_schema_in_words() -> None:
    """The schema joins the system message there is, and the client's own fields are not sent past it."""
    system = {"role": "system", "content": "Be brief."}
    request = replace(sent("openai.chat", response_format=b"{}"), messages=[system, *ASK.messages], schema=SCHEMA)
    body = encoded(EMULATED, request)
    assert "response_format" not in body
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][0]["content"].startswith("Be brief.\n\n")
    assert '{"type":"array","items":{"type":"integer"}}' in body["messages"][0]["content"]
    assert encoded(EMULATED, replace(ASK, schema=SCHEMA))["messages"][0]["role"] == "system"
    assert EMULATED.decode(b'{"choices":[{"message":{"content":"[1]"}}]}', request).body == b""


def test_embeddings() -> None:
    """Vectors are read as numbers and as base64, by index; a client's own fields pass; too few are a bad response."""
    asked = replace(ASK, inputs=("a", "b"))
    packed = base64.b64encode(array("f", [0.5, 0.25]).tobytes()).decode()
    answer = b'{"data":[{"index":1,"embedding":"%b"},{"index":0,"embedding":[1,2]}],"usage":{"prompt_tokens":5}}'
    completion = OPENAI.decode(answer % packed.encode(), asked)
    assert (completion.vectors, completion.usage.input_tokens) == (((1.0, 2.0), (0.5, 0.25)), 5)
    assert encoded(OPENAI, asked) == {"model": "m", "input": ["a", "b"], "encoding_format": "float"}
    own = replace(sent("openai.embeddings", input=b'["a","b"]', dimensions=b"3"), inputs=("a", "b"))
    assert encoded(OPENAI, own) == {"model": "m", "input": ["a", "b"], "dimensions": 3}
    for bad in (b'{"data":[{"embedding":[1]}]}', b'{"data":[{"embedding":"?"},{"embedding":"?"}]}', b'{"data":[]}'):
        with pytest.raises(LlmError) as caught:
            OPENAI.decode(bad, asked)
        assert (caught.value.code, caught.value.billed) == ("bad_response", True)


async def test_azure() -> None:
    """Azure gets its version in the query, its key in its own header, and the deployment where the address says."""
    body = b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}'
    vectors = b'{"data":[{"embedding":[1]}]}'
    seen: list[bytes] = []
    answers = [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(one), one) for one in (body, vectors)]
    async with serving(answering(*answers, seen=seen)) as url:
        provider = Provider(
            kind="openai",
            base_url=url.removesuffix("/v1/x") + "/openai/deployments/{model}",
            api_version="2024-10-21",
            api_key_env="K",
        )
        route = Route(name="a", tier="fast", provider="azure", model="gpt 4")
        prices = Prices({"azure/gpt 4": Price(input_usd_per_mtok="1", output_usd_per_mtok="1")})
        gateway = Gateway([route], {"azure": provider}, prices, GatewayOptions(environ={"K": "secret"}))
        await gateway.start()
        await gateway.execute(plan_on_first(gateway, ASK), "c", 5)
        await gateway.execute(plan_on_first(gateway, replace(ASK, inputs=("a",))), "d", 5)
        await gateway.stop()
    chat, embed = seen
    start = b"POST /openai/deployments/gpt%204/"
    assert chat.startswith(start + b"chat/completions?api-version=2024-10-21 HTTP/1.1\r\n")
    assert embed.startswith(start + b"embeddings?api-version=2024-10-21 HTTP/1.1\r\n")
    assert b"\r\napi-key: secret\r\n" in chat
    assert b"authorization" not in chat
    assert b'"max_completion_tokens":10' in chat
