"""The wires that clients speak to us, read: what is understood, and what is refused with the name of its field."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.errors import Problem
from tollway.llm.providers.anthropic.inbound import InboundMessages
from tollway.llm.providers.inbound import Inbound, Limits
from tollway.llm.providers.openai.inbound_chat import InboundChat
from tollway.llm.providers.openai.inbound_embeddings import InboundEmbeddings
from tollway.llm.providers.openai.inbound_responses import InboundResponses

FORMS: dict[str, Inbound] = {
    "chat": InboundChat(),
    "responses": InboundResponses(),
    "embeddings": InboundEmbeddings(),
    "messages": InboundMessages(),
}
LIMITS = Limits(1024, {"small": 100}.get)
HI = [{"role": "user", "content": "Hi"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Of a city", "parameters": CITY}}
PIXEL = "data:image/png;base64,aGk="
LEAST = {
    "chat": {"model": "fast", "messages": HI},
    "responses": {"model": "fast", "input": "Hi"},
    "embeddings": {"model": "fast", "input": "Hi"},
    "messages": {"model": "fast", "messages": HI},
}


def read(form: str, **fields: Any) -> Any:
    """The least request of a form with these fields; None leaves one out."""
    body = {name: value for name, value in {**LEAST[form], **fields}.items() if value is not None}
    return FORMS[form].read(json.dumps(body).encode(), LIMITS)


def refused(form: str, **fields: Any) -> Problem:
    """What such a request is refused with."""
    with pytest.raises(Problem) as caught:
        read(form, **fields)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize("form", FORMS)
def test_the_least_request_is_read_and_keeps_its_fields(form: str) -> None:
    """Every field comes along as it was sent, unknown ones too, beside what is understood of it. (P11)"""
    request = read(form, shiny={"new": [1]})
    assert request.tier == "fast"
    assert request.sent.form == FORMS[form].form
    assert bytes(request.sent.fields["shiny"]) == b'{"new": [1]}'
    assert not request.stream


def test_a_chat_is_read_whole() -> None:
    """All that translates to other vendors is understood: tools, their choice, schema, bounds, stops, images."""
    image = {"type": "image_url", "image_url": {"url": PIXEL}}
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": CITY, "strict": True}}
    request = read(
        "chat",
        messages=[{"role": "system", "content": "Be brief"}, {"role": "user", "content": [image]}],
        max_completion_tokens=9,
        max_tokens=8,
        temperature=0.5,
        top_p=0.9,
        stop="END",
        stream=True,
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        response_format=form,
    )
    assert request.messages[1] == {"role": "user", "content": [image]}
    assert (request.max_tokens, request.temperature, request.top_p, request.stop) == (9, 0.5, 0.9, ("END",))
    assert (request.schema, request.schema_name, request.stream) == (CITY, "place", True)
    assert request.tools == [WEATHER]
    assert request.tool_choice == {"type": "function", "function": {"name": "weather"}}


def test_a_response_is_read_as_a_chat() -> None:
    """Instructions, messages, calls of functions and their results become a conversation in the chat form."""
    request = read(
        "responses",
        instructions="Be brief",
        input=[
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "Hi"}, {"type": "input_image", "image_url": PIXEL}],
            },
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        ],
        max_output_tokens=7,
        tools=[{"type": "function", "name": "weather", "parameters": CITY}],
        tool_choice={"type": "function", "name": "weather"},
        text={"format": {"type": "json_schema", "name": "place", "schema": CITY}},
        store=True,
    )
    function = {"name": "weather", "arguments": "{}"}
    calls = [{"id": name, "type": "function", "function": function} for name in ("c1", "c2")]
    parts = [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    assert request.messages == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    assert request.tools == [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]
    assert request.tool_choice == {"type": "function", "function": {"name": "weather"}}
    assert (request.max_tokens, request.schema, request.schema_name) == (7, CITY, "place")


def test_messages_are_read_as_a_chat() -> None:
    """System, blocks, uses of tools and their results become a conversation in the chat form."""
    source = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    request = read(
        "messages",
        system=[{"type": "text", "text": "Be"}, {"type": "text", "text": "brief"}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image", "source": source}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "…", "signature": "s"},
                    {"type": "text", "text": "Let me look"},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]},
                    {"type": "text", "text": "And?"},
                ],
            },
        ],
        max_tokens=7,
        stop_sequences=["END"],
        tools=[{"name": "weather", "description": "Of a city", "input_schema": CITY}],
        tool_choice={"type": "any"},
        output_config={"format": {"type": "json_schema", "schema": CITY}},
    )
    call = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
    assert request.messages == [
        {"role": "system", "content": "Be\nbrief"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": PIXEL}}],
        },
        {"role": "assistant", "content": "Let me look", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": "rain"},
        {"role": "user", "content": [{"type": "text", "text": "And?"}]},
    ]
    assert request.tools == [WEATHER]
    assert (request.tool_choice, request.stop, request.schema) == ("required", ("END",), CITY)


def test_texts_to_embed() -> None:
    """One text or many; what a model writes is no matter of theirs."""
    assert read("embeddings").inputs == ("Hi",)
    assert read("embeddings", input=["a", "b"]).inputs == ("a", "b")
    assert read("embeddings").max_tokens == 0
    for tokens, count in (([7, 8, 9], 1), ([[7, 8], [9]], 2)):
        request = read("embeddings", input=tokens)
        assert (len(request.inputs), request.ready_tokens) == (count, 3)
        assert request.sent is not None
        assert msgspec.json.decode(request.sent.fields["input"]) == tokens


@pytest.mark.parametrize("form", ["chat", "responses", "messages"])
def test_the_output_is_always_bounded(form: str) -> None:
    """A request that sets no bound gets the default, or what its model writes at most."""
    assert read(form).max_tokens == 1024
    assert read(form, model="small").max_tokens == 100


@pytest.mark.parametrize(
    ("form", "fields", "param"),
    [
        ("chat", {"model": None}, "model"),
        ("chat", {"model": 7}, "model"),
        ("chat", {"model": ""}, "model"),
        ("chat", {"messages": None}, "messages"),
        ("chat", {"messages": []}, "messages"),
        ("chat", {"messages": "Hi"}, "messages"),
        ("chat", {"messages": [{"role": "emperor", "content": "Hi"}]}, "messages[0].role"),
        ("chat", {"messages": [*HI, {"role": "user"}]}, "messages[1].content"),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ("chat", {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ("chat", {"max_tokens": 0}, "max_tokens"),
        ("chat", {"max_completion_tokens": -1}, "max_completion_tokens"),
        ("chat", {"model": "small", "max_tokens": 101}, "max_tokens"),
        ("chat", {"max_tokens": "many"}, "max_tokens"),
        ("chat", {"temperature": 2.5}, "temperature"),
        ("chat", {"n": 2}, "n"),
        ("chat", {"stream": "yes"}, "stream"),
        ("chat", {"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ("chat", {"tools": [{"type": "function"}]}, "tools[0].function"),
        (
            "chat",
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "nope"}}}]},
            "tools[0].function.parameters",
        ),
        ("chat", {"tool_choice": "required"}, "tool_choice"),
        ("chat", {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ("chat", {"response_format": {"type": "yaml"}}, "response_format.type"),
        ("chat", {"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            "chat",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": 5}}}},
            "response_format.json_schema.schema",
        ),
        ("responses", {"input": None}, "input"),
        ("responses", {"input": []}, "input"),
        ("responses", {"input": [{"role": "user"}]}, "input[0].content"),
        ("responses", {"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ("responses", {"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ("responses", {"previous_response_id": "resp_1"}, "previous_response_id"),
        ("responses", {"background": True}, "background"),
        ("responses", {"max_output_tokens": 0}, "max_output_tokens"),
        ("responses", {"tools": [{"type": "function", "parameters": CITY}]}, "tools[0].name"),
        ("responses", {"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ("embeddings", {"input": []}, "input"),
        ("embeddings", {"input": ""}, "input"),
        ("embeddings", {"input": ["a", ""]}, "input[1]"),
        ("embeddings", {"input": ["a", 2]}, "input[1]"),
        ("embeddings", {"input": [[]]}, "input[0]"),
        ("embeddings", {"dimensions": 0}, "dimensions"),
        ("messages", {"messages": []}, "messages"),
        ("messages", {"max_tokens": 0}, "max_tokens"),
        ("messages", {"temperature": 1.5}, "temperature"),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
            "messages[0].content[0].tool_use_id",
        ),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].source"),
        ("messages", {"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ("messages", {"tool_choice": {"type": "any"}}, "tool_choice"),
    ],
)  # fmt: skip
def test_a_bad_field_is_named(form: str, fields: dict[str, Any], param: str) -> None:
    """A malformed request is refused with the name of the field at fault. (P11)"""
    problem = refused(form, **fields)
    assert problem.fields["param"] == param
    assert problem.detail.startswith(f"{param}: ")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"Hi"', b"\xff\xfe", b'{"model": "\xff"}', b"[" * 5000])
def test_what_is_no_object_is_refused(form: str, body: bytes) -> None:
    """Anything but a JSON object is refused, never a fault of ours. (P11)"""
    with pytest.raises(Problem) as caught:
        FORMS[form].read(body, LIMITS)
    assert caught.value.status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["messages", "input", "tools", "tool_choice", "stop", "stop_sequences", "system", "response_format", "text", "n"]
)


@pytest.mark.parametrize("form", FORMS)
@given(fields=st.dictionaries(NAMES, JSON, max_size=4))
def test_any_json_is_read_or_refused(form: str, fields: dict[str, Any]) -> None:
    """Whatever a field holds, the request is read or refused with a problem; nothing else is ever raised. (P11)"""
    try:
        request = read(form, **fields)
    except Problem:
        return
    assert request.messages or request.inputs


@pytest.mark.parametrize("form", FORMS)
def test_what_is_read_can_be_read_again(form: str) -> None:
    """The fields kept of a request, sent on, are the request. (P10)"""
    first = read(form, user="u-1", metadata={"a": "b"})
    body = {name: json.loads(bytes(value)) for name, value in first.sent.fields.items()}
    again = FORMS[form].read(json.dumps(body).encode(), LIMITS)
    assert (again.messages, again.inputs, again.max_tokens) == (first.messages, first.inputs, first.max_tokens)
