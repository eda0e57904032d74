"""The checks of JSON at the door, against plain slow readings of the same rules."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.errors import Problem
from tollway.ingress.bodies import check_depth, check_values, decode_body
from tollway.ingress.submission import RunBody

DEPTH_MAX = 8
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=40,
)


def depth_of(value: Any) -> int:
    """How deep brackets nest."""
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@given(value=VALUES, bound=st.integers(1, 6), spaced=st.booleans(), plain=st.booleans())
def test_depth_is_what_a_walk_would_count(value: Any, bound: int, spaced: bool, plain: bool) -> None:
    """The bracket-stripping test agrees with the true depth, whatever stands within texts."""
    body = json.dumps(value, indent=1 if spaced else None, ensure_ascii=plain).encode("utf-8", "surrogatepass")
    if depth_of(value) <= bound:
        check_depth(body, bound)
    else:
        with pytest.raises(Problem) as refused:
            check_depth(body, bound)
        assert refused.value.code == "too_deep"


@given(value=VALUES)
def test_what_passes_can_be_stored_and_read_by_all(value: Any) -> None:
    """After the check no text holds NUL or half a pair, and no integer leaves 64 bits: msgspec can write it again."""
    with contextlib.suppress(Problem):
        check_values(value, "input")
        assert_storable(value)


def assert_storable(value: Any) -> None:
    """Nothing in it that a database or another decoder could choke on."""
    assert "\\u0000" not in json.dumps(value)
    msgspec.json.encode(value)


@given(body=st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_give_a_body_or_a_problem(body: bytes) -> None:
    """Whatever is sent, the decoder returns or refuses; it never fails."""
    with contextlib.suppress(Problem):
        assert isinstance(decode_body(msgspec.json.Decoder(RunBody), body, DEPTH_MAX), RunBody)


def test_a_misfit_names_its_place() -> None:
    """Paths of wrong types, unknown and missing fields read the way a client would write them."""
    decoder = msgspec.json.Decoder(RunBody)
    for body, path in (
        (b'{"agent":1,"input":1}', "agent"),
        (b'{"input":1}', "agent"),
        (b'{"agent":"a","input":1,"webhook":{"url":1}}', "webhook.url"),
        (b'{"agent":"a","input":1,"webhook":{"nope":1}}', "webhook.nope"),
        (b"7", ""),
    ):
        with pytest.raises(Problem) as refused:
            decode_body(decoder, body, DEPTH_MAX)
        assert refused.value.fields["errors"][0]["path"] == path
