"""The parts of `make demo-local` that need neither the system nor the model: settings, examples, the account."""

import sys
from pathlib import Path

import pytest
from rich.console import Console

from tollway.config import load_settings

EXAMPLES = Path(__file__).parents[3] / "examples"
sys.path.insert(0, str(EXAMPLES))

from local_agents import examples, unseen  # noqa: E402 - found by the path above
from local_model import settings  # noqa: E402
from local_server import CONTEXT_TOKENS, MODEL  # noqa: E402
from local_view import Account, Row  # noqa: E402


def test_the_settings_make_one_route_without_a_price(tmp_path: Path) -> None:
    """The file written for the model passes the product's own check, and keeps within the server's window."""
    file = tmp_path / "tollway.toml"
    file.write_text(settings(8080))
    loaded = load_settings(file, environ={})
    (route,) = loaded.routes
    assert (route.tier, route.model, route.concurrency) == ("fast", MODEL, 1)
    assert route.context_tokens is not None
    assert route.context_tokens < CONTEXT_TOKENS
    assert loaded.providers["local"].base_url == "http://127.0.0.1:8080/v1"


def test_no_message_to_sort_is_among_the_examples() -> None:
    """The messages shown with their topic and those to be sorted are different ones, each topic as often as another."""
    shown, asked = examples(), unseen(12)
    assert not {text for text, _ in shown} & {text for text, _ in asked}
    assert [topic for _, topic in shown] == ["stolen", "exchange", "age"] * 2
    assert [topic for _, topic in asked] == ["stolen", "exchange", "age"] * 12


@pytest.mark.parametrize(("output", "good", "verdict"), [(8, True, True), (9, True, False), (8, False, False)])
def test_the_account_is_good_when_both_sides_counted_the_same(output: int, good: bool, verdict: bool) -> None:
    """What came from the cache is not held against the model; a token more or a failed answer makes the account bad."""
    account = Account()
    account.add(Row("a", "local-fast", (20, 5, 8), 0.1, 0, "age", "age", good))
    account.add(Row("again: a", "cache", (0, 0, 0), 0.0, 0, "age", "age"))
    console = Console(quiet=True)
    assert account.report(console, {"input": 20, "cached": 5, "output": output}) is verdict
