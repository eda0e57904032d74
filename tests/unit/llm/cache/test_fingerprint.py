"""What makes two calls the same, and what keeps them apart."""

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.errors import LlmError
from tollway.domain.llm import Caller, LlmRequest, Sent
from tollway.llm.cache.fingerprint import FINGERPRINT_BYTES, SILENT, fingerprint, task_fingerprint

AGENT = Caller("acme", "standard", "triage", "triage@1", "answer", "mail")
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"a": {}}}}}
ASK = LlmRequest(
    "fast",
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    50,
    0.5,
    {"type": "object", "properties": {"x": {"type": "string"}}},
    "answer",
    [TOOL],
    extra={"seed": 7},
    tool_choice="auto",
    top_p=0.9,
    stop=("END",),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def sent(**fields: Any) -> LlmRequest:
    """A request that came over the wire with these fields."""
    return replace(ASK, sent=Sent("openai.chat", {k: msgspec.Raw(json.dumps(v).encode()) for k, v in fields.items()}))


def shuffled(value: Any) -> Any:
    """The same JSON with the keys of every object the other way round."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(JSON)
def test_the_order_of_keys_says_nothing(value: Any) -> None:
    """However objects are ordered in messages, tools, schema, extra fields or raw JSON, a call stays the same."""
    messages = [{"role": "user", "content": value}]
    one = replace(ASK, messages=messages, tools=[{"t": value}], schema={"s": value}, extra={"e": value, "f": 1})
    other = replace(
        ASK,
        messages=shuffled(messages),
        tools=[{"t": shuffled(value)}],
        schema={"s": shuffled(value)},
        extra={"f": 1, "e": shuffled(value)},
    )
    assert fingerprint(AGENT, one) == fingerprint(AGENT, other)
    assert fingerprint(AGENT, sent(a=value, b=1)) == fingerprint(AGENT, sent(b=1, a=shuffled(value)))


@given(JSON, JSON)
def test_other_messages_are_another_call(one: Any, other: Any) -> None:
    """Two contents have one key exactly when they are the same JSON."""
    keys = [fingerprint(AGENT, replace(ASK, messages=[{"content": value}])) for value in (one, other)]
    same = msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")
    assert (keys[0] == keys[1]) is same
    assert {len(key) for key in keys} == {FINGERPRINT_BYTES}


@pytest.mark.parametrize(
    "change",
    [
        {"tier": "capable"},
        {"messages": ASK.messages[:1]},
        {"max_tokens": 51},
        {"temperature": None},
        {"temperature": 0.6},
        {"schema": None},
        {"schema_name": "verdict"},
        {"tools": None},
        {"extra": {"seed": 8}},
        {"tool_choice": {"type": "function", "function": {"name": "look"}}},
        {"top_p": None},
        {"stop": ()},
        {"inputs": ("Hi",)},
        {"sent": Sent("openai.chat", {})},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_shapes_the_answer_keeps_calls_apart(change: dict[str, Any]) -> None:
    """Each of tier, prompt, parameters, schema and its name, tools, choice and inputs is part of the key."""
    assert fingerprint(AGENT, replace(ASK, **change)) != fingerprint(AGENT, ASK)


def test_unknown_fields_of_the_wire_are_part_of_it_but_the_silent_ones_are_not() -> None:
    """A field Tollway does not know shapes the answer; delivery, end user and prompt-cache hints do not."""
    plain = sent(model="fast", seed=1)
    assert fingerprint(AGENT, sent(model="fast", seed=2)) != fingerprint(AGENT, plain)
    assert fingerprint(AGENT, sent(model="fast", seed=1, brand_new=True)) != fingerprint(AGENT, plain)
    for name in SILENT:
        assert fingerprint(AGENT, sent(model="fast", seed=1, **{name: "x"})) == fingerprint(AGENT, plain), name
    assert fingerprint(AGENT, replace(plain, sent=Sent("anthropic.messages", plain.sent.fields))) != fingerprint(
        AGENT, plain
    )


def test_streamed_and_plain_share_an_answer() -> None:
    """How an answer is delivered is not what it is; nor is a number's type."""
    assert fingerprint(AGENT, replace(ASK, stream=True)) == fingerprint(AGENT, ASK)
    assert fingerprint(AGENT, replace(ASK, temperature=1)) == fingerprint(AGENT, replace(ASK, temperature=1.0))


def test_the_scope_is_the_tenant_and_the_agents_version() -> None:
    """Another tenant or agent version never shares an answer; another lane, step, task type or API key does."""
    key = fingerprint(AGENT, ASK)
    assert fingerprint(replace(AGENT, tenant="other"), ASK) != key
    assert fingerprint(replace(AGENT, version="triage@2"), ASK) != key
    alike = replace(AGENT, lane="batch", agent="key-7", step="again", task_type="chat")
    assert fingerprint(alike, ASK) == key


def test_what_is_not_json_is_refused() -> None:
    """What cannot be written as JSON is refused for good; keys that are numbers are taken as JSON takes them."""
    loop: list[Any] = []
    loop.append(loop)
    for content in (object(), "\ud800", loop):
        with pytest.raises(LlmError) as refused:
            fingerprint(AGENT, replace(ASK, messages=[{"role": "user", "content": content}]))
        assert (refused.value.code, refused.value.final) == ("refused", True)
    broken = Sent("openai.chat", {"seed": msgspec.Raw(b"{")})
    with pytest.raises(LlmError, match="not JSON"):
        fingerprint(AGENT, replace(ASK, sent=broken))
    numbered = fingerprint(AGENT, replace(ASK, schema={"enum": {1: "a", 2: "b"}}))
    assert numbered == fingerprint(AGENT, replace(ASK, schema={"enum": {"2": "b", "1": "a"}}))


def test_a_task_is_its_name_its_arguments_and_its_time() -> None:
    """A task's result is shared within tenant and agent version, by name, canonical arguments and time to live."""
    key = task_fingerprint(AGENT, "rate", ({"a": 1, "b": [2]}, "x"), 60.0)
    assert task_fingerprint(AGENT, "rate", [{"b": [2], "a": 1}, "x"], 60.0) == key
    others = [
        task_fingerprint(replace(AGENT, tenant="other"), "rate", ({"a": 1, "b": [2]}, "x"), 60.0),
        task_fingerprint(replace(AGENT, version="triage@2"), "rate", ({"a": 1, "b": [2]}, "x"), 60.0),
        task_fingerprint(AGENT, "rates", ({"a": 1, "b": [2]}, "x"), 60.0),
        task_fingerprint(AGENT, "rate", ({"a": 1, "b": [2]},), 60.0),
        task_fingerprint(AGENT, "rate", ({"a": 1, "b": [2]}, "x"), 61.0),
    ]
    assert len({key, *others}) == 6
    with pytest.raises(ValueError, match="arguments of task 'rate' must be JSON"):
        task_fingerprint(AGENT, "rate", (object(),), 60.0)
