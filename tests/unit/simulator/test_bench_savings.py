"""The bench of savings: the demo's own prompts, real prices, and the bills as figures."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tollway.config import load_settings
from tollway.runtime.registry import registry
from tollway.simulator.bench import support_desk as desk
from tollway.simulator.bench.scenarios.savings import RUNGS, Bill, report
from tollway.simulator.customers import Message
from tollway.spend.prices import Prices

ROOT = Path(__file__).parents[3]
TICKET = {"text": "My card has not arrived yet.", "customer": "customer-7"}


class Recorder:
    """Stands where a run would, and notes what an agent asks of a model."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    async def llm(self, prompt: str, **asked: Any) -> Any:
        """An answer that always means the same."""
        schema = asked.pop("returns", None)
        self.asked.append((prompt, sorted(asked.items()), schema is not None))
        return SimpleNamespace(text="Dear customer", parsed=SimpleNamespace(intent="card_arrival", urgency="low"))

    async def task(self, name: str, function: Any, *arguments: Any) -> Any:
        """Done at once."""
        return await function(*arguments)


async def test_the_benchs_agent_asks_what_the_demos_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same prompts, bounds, names and tiers, to the letter."""
    monkeypatch.syspath_prepend(str(ROOT))
    from examples import agents as examples

    made: dict[str, Any] = {"__name__": "bench_agents"}
    exec(desk.AGENTS, made)
    ours, theirs = Recorder(), Recorder()
    await made["triage"](ours, TICKET)
    await examples.triage(theirs, examples.Ticket(**TICKET))
    assert ours.asked == theirs.asked
    assert len(ours.asked) == desk.CALLS_A_RUN
    one, other = registry.get(desk.AGENT), registry.get("triage")
    assert one is not None
    assert other is not None
    assert (one.tier, one.lane) == (other.tier, other.lane)
    sys.modules.pop("examples.agents", None)


def test_the_prices_are_the_vendors() -> None:
    """What the bench bills is what genai-prices has of the three models, dated, on both sides of the wire."""
    real = Prices({})
    for model, price in desk.MODELS.values():
        found = real.price("openai", "openai", model, time.time()).base
        assert (price["input_usd_per_mtok"] * 1e9, price["output_usd_per_mtok"] * 1e9) == (found.input, found.output)
        assert desk.PROVIDER["models"][model]["prices"] == price


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_each_rung_is_a_valid_configuration(rung: Any, tmp_path: Path) -> None:
    """A rung is nothing but settings and shifts between tiers that are served, at a price with its date."""
    path = tmp_path / "tollway.toml"
    path.write_text(desk.project(rung.llm).toml(100, [1111]))
    settings = load_settings(path, environ={})
    assert (settings.llm.cache, settings.llm.single_flight) == (rung.llm["cache"], rung.llm["single_flight"])
    assert {shift["to_tier"] for shift in rung.shifts} <= set(settings.served_tiers) == set(desk.MODELS)
    assert all([str(each.since) for each in price] == [desk.PRICES_FROM] for price in settings.prices.values())


def bill(name: str, nano: int, calls: int, **other: Any) -> Bill:
    """A bill of three messages."""
    known = {"messages": 3, "succeeded": 3, "own_nano": nano, "by_model": {"gpt-4.1": calls}}
    return Bill(**{"rung": name, "nano": nano, "calls": calls, **known, **other})


WORK = [Message(text, 0, "batch", "a", "c") for text in ("x", "y", "x")]


def test_a_report_says_what_each_rung_saves() -> None:
    """Each against the one before and against the first; calls that were not made; half saved in all is the bound."""
    found = report(WORK, [bill("all", 1000, 6), bill("+ tiers", 400, 6), bill("+ cache", 300, 4)])
    figures = {figure.name.strip(): figure for figure in found.figures}
    assert figures["+ tiers, saved"].value == 60
    assert figures["+ cache, saved"].value == 25
    assert (figures["saved in all"].value, figures["saved in all"].met) == (70, True)
    assert figures["that their tenant had sent before"].value == pytest.approx(33.33)
    assert found.problems == []
    assert found.sheets[0].rows[-1] == ["+ cache", "0.000000", "4", "2", "25.0 %", "70.0 %"]


def test_a_bill_that_cannot_be_trusted_is_a_problem() -> None:
    """Runs that failed, ledgers that disagree, a shift that did not hold."""
    bills = [bill("all", 1000, 6, by_model={"gpt-4.1": 5, "gpt-4.1-nano": 1}), bill("x", 9, 6, own_nano=8, succeeded=2)]
    assert len(report(WORK, bills).problems) == 3
