"""Fingerprints: what a person calls the same error is one group, and nothing else is."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.runtime.fingerprints import fingerprint, own_frame, place_of


def failing(number: int, kind: type[Exception] = ValueError) -> None:
    """Raises at one place, with a message that differs."""
    if number < 0:
        raise kind(f"order {number} is negative")
    raise kind(f"order {number} is unknown")


def parse(text: str) -> None:
    """Fails in the depths of a library."""
    json.loads(text)


def parse_other(text: str) -> None:
    """The same, elsewhere."""
    json.loads(text)


def print_of(deed: Callable[[], None]) -> str:
    """The fingerprint of what the deed raises."""
    try:
        deed()
    except Exception as error:
        return fingerprint("triage", type(error).__name__, place_of(own_frame(error)))
    pytest.fail("the deed did nothing wrong")


@given(st.integers(min_value=0), st.integers(min_value=0))
def test_messages_part_nothing(one: int, other: int) -> None:
    """Whatever number or id a message holds, the same error at the same place is one group."""
    assert print_of(lambda: failing(one)) == print_of(lambda: failing(other))


def test_places_types_and_agents_part() -> None:
    """Another line of the same function, another type at the same line, another agent: other groups."""
    assert (
        len({print_of(lambda: failing(1)), print_of(lambda: failing(-1)), print_of(lambda: failing(1, KeyError))}) == 3
    )
    assert fingerprint("triage", "ValueError", "") != fingerprint("other", "ValueError", "")
    assert len(fingerprint("triage", "ValueError", "")) == 16


def test_an_error_in_a_library_is_placed_in_the_code_that_called_it() -> None:
    """Two kinds of bad JSON met by one function are one group; those that another function met are another."""
    assert print_of(lambda: parse("{")) == print_of(lambda: parse("[1,"))
    assert print_of(lambda: parse("{")) != print_of(lambda: parse_other("{"))


def test_lines_that_move_stay_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same line further down in its file is the same place."""
    source = "def run():\n    raise ValueError('no')\n"
    prints = set()
    for head in ("", "# a new comment\n\n"):
        file = tmp_path_factory.mktemp("code") / "shop.py"
        file.write_text(head + source)
        names: dict[str, Callable[[], None]] = {}
        exec(compile(head + source, str(file), "exec"), names)
        prints.add(print_of(names["run"]))
    assert len(prints) == 1
