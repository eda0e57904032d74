"""`tollway prices` and the doctor's checks of prices: what people read of what calls cost."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from command_kit import tollway
from contract_server import ContractServer, Reply

from tollway.cli.doctor_prices import check_prices
from tollway.config import load_settings

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
ROUTE = '[providers.p]\nkind = "openai"\n[[routes]]\ntier = "fast"\nprovider = "p"\nmodel = "{}"\n'
RATES = ("input", "output", "cached_input", "cache_write", "cache_write_long", "reasoning")


def item(model: str, **more: Any) -> dict[str, Any]:
    """A route's price as the API shows it."""
    return {
        "route": f"fast-{model}", "tier": "fast", "provider": "p", "model": model, "capacity": "on_demand",
        "source": "config", "version": "config@2026-01-01", "since": "2026-01-01", "changes_at": None,
        **{f"{name}_usd_per_mtok": 2.5 for name in RATES}, "above": [],
        "per_call_usd": 0.0, "per_call_nano": 0, "worst_call_usd": 0.00506, "worst_call_nano": 5_060_000, **more,
    }  # fmt: skip


ITEMS = [
    item("small", output_usd_per_mtok=10.0, changes_at="2027-01-01T00:00:00.000Z"),
    item("large", above=[{"input_tokens": 200_000, **{f"{name}_usd_per_mtok": 6.0 for name in RATES}}]),
    item("rented", usd_per_hour=40.0, mtok_per_hour=16.0, per_call_usd=0.01, per_call_nano=10_000_000),
    {"route": "r", "tier": "fast", "provider": "p", "model": "odd", "source": "unknown", "remedy": "add a price"},
]
ANSWER = {"items": ITEMS, "usual_call": {"input_tokens": 1000, "output_tokens": 1024}, "next": None}


def test_prices_is_a_table_with_notes(server: ContractServer) -> None:
    """Rates, fee, worst call, next change and version stand in a row; steps, hours and remedies below the table."""
    server.on("GET /v1/prices", Reply(200, ANSWER))
    result = tollway(server, "prices")
    assert result.exit_code == 0
    rows = {line.split()[0]: line.split() for line in result.output.splitlines() if line}
    assert rows["fast-small"][2:7] == ["p/small", "2.5", "10", "2.5", "2.5"]
    assert rows["fast-small"][7:] == ["$0.00506", "2027-01-01", "config@2026-01-01"]
    assert "$0.01" in rows["fast-rented"]
    assert "fast-large: above 200,000 tokens of input 6 in, 6 out" in result.output
    assert "fast-rented: 40 dollars an hour over 16 million tokens, so 2.5 each" in result.output
    assert "r: add a price" in result.output
    assert "1,000 tokens in, 1,024 out" in result.output


def test_prices_of_a_model(server: ContractServer) -> None:
    """`--model` keeps those whose name holds it, in the table and in JSON; none is no error."""
    server.on("GET /v1/prices", Reply(200, ANSWER))
    found = json.loads(tollway(server, "prices", "--model", "arg", "--json").stdout)
    assert [found["model"] for found in found["items"]] == ["large"]
    assert found["usual_call"] == ANSWER["usual_call"]
    none = tollway(server, "prices", "--model", "nothing")
    assert (none.exit_code, none.output.strip()) == (0, "no such routes are configured")


def checks(folder: Path, text: str) -> list[tuple[str, str, str]]:
    """What the doctor says of the prices of these settings: state, finding, remedy."""
    file = folder / "tollway.toml"
    file.write_text(text)
    return [(check.state, check.found, check.remedy) for check in check_prices(load_settings(file, environ={}), NOW)]


def test_the_doctor_finds_prices_in_order(tmp_path: Path) -> None:
    """Models of the bundled list and of the configuration are told with their sources, changes soon to come too."""
    ((state, found, _),) = checks(tmp_path, ROUTE.format("gpt-4o-mini"))
    assert (state, found.split(" by ")[0]) == ("ok", "1 of 1 models priced")
    price = '[[prices."p/m"]]\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 1\nfrom = {}\n'
    dated = ROUTE.format("m") + "".join(price.format(day) for day in ("2026-01-01", "2026-11-15"))
    assert checks(tmp_path, dated) == [("ok", "p/m: another price from 2026-11-15 on", "")]


@pytest.mark.parametrize(
    ("text", "state", "says"),
    [
        (ROUTE.format("mystery"), "fail", "has no price"),
        (
            ROUTE.format("mystery")
            + '[spend]\nunknown_model = "worst"\nworst_input_usd_per_mtok = 9\nworst_output_usd_per_mtok = 9\n',
            "warn",
            "worst case",
        ),
        (
            ROUTE.format("gpt-4o-mini") + '[prices."p/gpt-4o-mni"]\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 1\n',
            "warn",
            "no route leads to it",
        ),
    ],
)
def test_the_doctor_names_what_is_wrong_with_prices(tmp_path: Path, text: str, state: str, says: str) -> None:
    """A model without a price, one at the worst case, and a price that is no route's, each with its remedy."""
    found = next(check for check in checks(tmp_path, text) if check[0] != "ok")
    assert (found[0], says in found[1], bool(found[2])) == (state, True, True)


def test_without_a_file_the_simulated_prices_are_in_order(tmp_path: Path) -> None:
    """The built-in routes are priced as the simulated provider charges."""
    assert checks(tmp_path, "") == [("ok", "3 of 3 models priced by config", "")]
