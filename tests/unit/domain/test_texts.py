"""Texts made fit for the record."""

from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.texts import storable


@given(st.text(st.characters(exclude_categories=()), max_size=60), st.integers(1, 40))
def test_what_comes_out_can_be_stored(text: str, chars_max: int) -> None:
    """Never NUL, never half a surrogate pair, never longer than asked for."""
    kept = storable(text, chars_max)
    kept.encode()
    assert "\x00" not in kept
    assert len(kept) <= chars_max


@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=40))
def test_what_can_be_stored_stays(text: str) -> None:
    """A text that is fit and short is left as it is."""
    assert storable(text, 40) == text
