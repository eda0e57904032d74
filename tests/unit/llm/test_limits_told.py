"""What vendors tell of their limits in headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.llm.providers.limits import NOTHING, Dimension, Told, counts_of, limits_told

NOW_S = 1_767_225_600.0  # 2026-01-01T00:00:00Z


def openai(name: bytes, *values: bytes) -> dict[bytes, bytes]:
    parts = (b"limit", b"remaining", b"reset")
    return {b"x-ratelimit-%b-%b" % (part, name): value for part, value in zip(parts, values, strict=True)}


@pytest.mark.parametrize(
    ("text", "reset_s"),
    [(b"12ms", 0.012), (b"1.5s", 1.5), (b"1m2s", 62), (b"6m0s", 360), (b"1h0m3s", 3603), (b"59.7s", 59.7), (b"3", 3),
     (b"soon", None), (b"", None), (b"-1s", None), (b"9999h", None)],
)  # fmt: skip
def test_openai(text: bytes, reset_s: float | None) -> None:
    """OpenAI's durations of every form become seconds; what is no duration is untold."""
    told = limits_told("openai", openai(b"requests", b"500", b"499", text), NOW_S)
    assert told.tokens is None
    assert told.requests is not None
    assert (told.requests.limit, told.requests.remaining) == (500, 499)
    assert told.requests.reset_s == (None if reset_s is None else pytest.approx(reset_s))


def test_azure_does_not_know() -> None:
    """Azure's limits of -1 and 0 are untold, so that nobody takes them for an empty bucket; so is what is missing."""
    fields = openai(b"requests", b"-1", b"-1", b"0") | openai(b"tokens", b"0", b"0", b"0")
    assert limits_told("openai", fields, NOW_S) == NOTHING
    assert limits_told("openai", {b"x-ratelimit-remaining-tokens": b"7"}, NOW_S) == Told(tokens=Dimension(None, 7))


def test_anthropic() -> None:
    """Anthropic's four limits are told apart, their moments as seconds from now; one that is past is now."""
    fields = {
        b"anthropic-ratelimit-requests-limit": b"50",
        b"anthropic-ratelimit-requests-remaining": b"49",
        b"anthropic-ratelimit-requests-reset": b"2026-01-01T00:00:02Z",
        b"anthropic-ratelimit-input-tokens-remaining": b"1000",
        b"anthropic-ratelimit-output-tokens-remaining": b"0",
        b"anthropic-ratelimit-output-tokens-reset": b"2025-12-31T23:00:00Z",
    }
    assert limits_told("anthropic", fields, NOW_S) == Told(
        requests=Dimension(50, 49, 2.0), input=Dimension(None, 1000), output=Dimension(None, 0, 0.0)
    )


@given(st.sampled_from(["openai", "anthropic", "gemini", "other"]), st.binary(max_size=30), st.binary(max_size=30))
def test_nonsense_is_untold(kind: str, count: bytes, reset: bytes) -> None:
    """No header a vendor may send is an error, whatever is in it."""
    fields = openai(b"tokens", count, count, reset)
    fields |= {name.replace(b"x-", b"anthropic-"): value for name, value in fields.items()}
    fields |= {b"anthropic-ratelimit-tokens-remaining": count, b"anthropic-ratelimit-tokens-reset": reset}
    assert isinstance(limits_told(kind, fields, NOW_S), Told)


def test_counts() -> None:
    """How a vendor counts is known by its kind; a stranger is taken at its worst."""
    assert [counts_of(kind) for kind in ("openai", "anthropic", "gemini", "new")] == [
        "max_tokens", "actual", "input", "max_tokens",
    ]  # fmt: skip
