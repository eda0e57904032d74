"""The demo's parts that need no system: its mix of work, its figures, its settings."""

import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tollway.client.views import as_run
from tollway.config import load_settings
from tollway.simulator.customers import LANES

EXAMPLES = Path(__file__).parents[3] / "examples"
sys.path.insert(0, str(EXAMPLES))

from demo_stack import PROVIDERS, Stack, settings  # noqa: E402 - found by the path above
from demo_view import Figures, percentile  # noqa: E402
from demo_work import TENANTS, intent, messages  # noqa: E402


def test_the_mix_has_every_lane_and_tenant() -> None:
    """600 messages go to three lanes by share and three tenants alike; most texts are new, and intents are mixed."""
    found = messages(600)
    lanes = Counter(message.lane for message in found)
    assert [lanes[lane] for lane in LANES] == [120, 180, 300]
    assert Counter(message.tenant for message in found) == dict.fromkeys(TENANTS, 200)
    assert 400 <= len({message.text for message in found}) <= 440
    assert len({intent(message) for message in found}) > 70


@pytest.mark.parametrize("count", [6, 7, 2_500])
def test_any_number_of_messages_can_be_had(count: int) -> None:
    """Fewer or more than the sample holds: exactly as many as asked."""
    assert len(messages(count)) == count


def test_figures_are_sums_over_the_runs() -> None:
    """The span runs from the first acceptance to the last end; steps and money add up."""
    runs = [
        as_run(
            {
                "id": str(i), "agent": "triage", "state": "succeeded", "usage": {"steps": 3, "cost_nano": 7},
                "created_at": f"2026-01-31T12:00:0{i}Z", "ended_at": f"2026-01-31T12:00:0{i + 2}Z",
            }
        )
        for i in range(3)
    ]  # fmt: skip
    figures = Figures.of(runs)
    assert (figures.span_s, figures.steps, figures.cost_nano, figures.states["succeeded"]) == (4.0, 9, 21, 3)
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([], 0.99) == 0


@pytest.mark.parametrize("provider", ["sim", *PROVIDERS])
def test_the_settings_of_every_provider_are_valid(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file written for each provider passes the product's own check, with a route for every tier."""
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    stack = Stack(settings(provider, slots=50))
    try:
        file = stack.folder / "tollway.toml"
        tomllib.loads(file.read_text())
        loaded = load_settings(file, environ={})
        assert loaded.worker.slots == 50
        assert set(loaded.served_tiers) == {"fast", "capable", "powerful"}
    finally:
        stack.remove()
    assert not stack.folder.exists()
