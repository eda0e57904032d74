"""What is kept of an answer comes back as it was."""

import msgspec
import pytest

from tollway.domain.llm import Completion, ToolCall, Usage
from tollway.llm.cache.answers import Kept
from tollway.llm.calls import CallResult

WHOLE = Completion(
    "text",
    (ToolCall("c1", "look", '{"a":1}'), ToolCall("c2", "look", "{}")),
    Usage(11, 5, 3, 2, True, 7, 1),
    "tool_calls",
    "model-2026",
    "because",
    ((0.25, -1.0), (0.5, 3.0)),
    b'{"id":"1"}',
    "openai.chat",
)


def test_an_answer_comes_back_whole() -> None:
    """Every field of the completion, its cost and its route survive being kept."""
    result = CallResult(WHOLE, 640, "route", "provider", "model", 1.5)
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(Kept.of(result)), type=Kept)
    assert kept.completion == WHOLE
    assert kept.result() == msgspec.structs.replace(result, latency_s=0.0)


def test_versions_read_each_others_answers() -> None:
    """Fields this version does not know are left out, those that an earlier one did not write have defaults."""
    fields = msgspec.to_builtins(Kept.of(CallResult(WHOLE, 1, "r", "p", "m", 0.0)))
    assert msgspec.convert([*fields, "of a later version"], Kept).completion == WHOLE
    assert msgspec.convert(fields[:8], Kept).body == b""


@pytest.mark.parametrize(
    ("reason", "good"),
    [
        ("stop", True),
        ("tool_calls", True),
        ("length", True),
        ("content_filter", False),
        ("refusal", False),
        ("", False),
    ],
)
def test_only_good_answers_are_kept(reason: str, good: bool) -> None:
    """Whole answers are given again, `length` too since the bound is in the key; what a filter cut off is not."""
    answer = Completion("text", (), Usage(), reason, "model")
    assert Kept.of(CallResult(answer, 1, "r", "p", "m", 0.0)).keepable is good
