"""`tollway usage`: tables, JSON, CSV, pages, and what cannot be asked."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from command_kit import tollway
from contract_server import ContractServer, Reply

ROUTE, RUNS = "GET /v1/usage", "GET /v1/usage/runs"


def row(**more: Any) -> dict[str, Any]:
    """A row as the API gives it."""
    return {
        **dict.fromkeys(("runs", "calls", "hits", "input_tokens", "output_tokens", "cached_tokens", "unknown_nano"), 3),
        "cost_nano": 2_500_000_000, "cost_usd": 2.5, "unknown_usd": 3e-9, "saved_usd": 0.25, "saved_nano": 250_000_000,
        "saved": {"cache_usd": 0.25, "flight_usd": 0.0, "prompt_cache_usd": 0.0, "shift_usd": 0.0}, **more,
    }  # fmt: skip


def report(*items: dict[str, Any], groups: tuple[str, ...] = ("agent",), cursor: str | None = None) -> dict[str, Any]:
    """A page as the API gives it."""
    days = {"from": "2026-01-01", "to": "2026-02-01"}
    return {"items": [*items], "next": cursor, **days, "group_by": [*groups], "total": row(calls=12)}


def test_it_shows_the_dearest_first_and_the_total(server: ContractServer) -> None:
    """Rows by cost with their shares of calls, a total, what was saved, and the shares of tiers."""
    cheap = row(agent="cheap", cost_nano=1, calls_share=0.25)
    dear = row(agent=None, calls_share=0.75)
    tiers = report(row(tier="fast", calls_share=0.9), row(tier="powerful", calls_share=0.1), groups=("tier",))
    server.on(ROUTE, Reply(200, report(cheap, dear)), Reply(200, tiers))
    shown = tollway(server, "usage", "--from", "2026-01-01", "--to", "2026-02-01", "--tenant", "acme")
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["agent", "-", "cheap", "total"]
    assert "75.0%" in lines[1]
    assert "$2.50" in lines[1]
    assert "saved: exact cache $0.25" in shown.stdout
    assert "calls by tier: fast 90.0%   powerful 10.0%" in shown.stdout
    asked = parse_qs(server.asked(ROUTE)[0].query)
    assert {name: asked[name] for name in ("group_by", "from", "to", "tenant")} == {
        "group_by": ["agent"],
        "from": ["2026-01-01"],
        "to": ["2026-02-01"],
        "tenant": ["acme"],
    }


def test_all_pages_are_one_report(server: ContractServer) -> None:
    """As JSON it is one document with the rows of all pages."""
    first = report(row(agent="a", calls_share=1.0), cursor="abc")
    server.on(ROUTE, Reply(200, first), Reply(200, report(row(agent="b", calls_share=0.0))))
    found = json.loads(tollway(server, "usage", "--by", "agent", "--json").stdout)
    assert ([item["agent"] for item in found["items"]], found["next"]) == (["a", "b"], None)
    assert parse_qs(server.asked(ROUTE)[1].query)["cursor"] == ["abc"]


def test_without_groups_it_is_one_line(server: ContractServer) -> None:
    """`--by ''` shows the total alone; nothing used is a sentence."""
    server.on(ROUTE, Reply(200, report(row(calls_share=1.0), groups=())))
    shown = tollway(server, "usage", "--by", "")
    assert "total" not in shown.stdout
    assert "$2.50" in shown.stdout
    nothing = report(groups=()) | {"total": row(runs=0, calls=0, hits=0)}
    server.on(ROUTE, Reply(200, nothing))
    assert "nothing was used from 2026-01-01" in tollway(server, "usage", "--by", "").stdout


def test_csv_goes_to_a_file_or_stdout(server: ContractServer, tmp_path: Path) -> None:
    """`--csv` writes what the API answers, byte for byte; a file that cannot be written is a usage error."""
    server.on(ROUTE, Reply(200, "agent,runs"))
    file = tmp_path / "usage.csv"
    assert tollway(server, "usage", "--csv", str(file)).exit_code == 0
    assert parse_qs(server.asked(ROUTE)[0].query)["format"] == ["csv"]
    assert file.read_text() == tollway(server, "usage", "--csv", "-").stdout
    assert tollway(server, "usage", "--csv", str(tmp_path)).exit_code == 2
    assert tollway(server, "usage", "--runs", "--csv", "-").exit_code == 2


def test_runs_are_shown_in_percentiles(server: ContractServer) -> None:
    """`--runs` shows an agent's runs, how many succeeded, and percentiles of calls and cost."""
    shares = {"p50": 1_000, "p90": 2_000, "p99": 30_000}
    item = {
        "tenant": "acme", "agent": "triage", "runs": 4, "states": {"succeeded": 3, "failed": 1}, "calls": 9,
        "cost_nano": 2_500_000_000, "calls_per_run": shares, "cost_nano_per_run": dict.fromkeys(shares, 5_000_000),
    }  # fmt: skip
    server.on(RUNS, Reply(200, {"items": [item], "next": None, "from": "2026-01-01", "to": "2026-02-01"}))
    shown = tollway(server, "usage", "--runs", "--by", "tenant,agent").stdout.splitlines()[1].split()
    assert shown == ["acme", "triage", "4", "75.0%", "$2.50", "1,000", "2,000", "30,000", *["$0.005"] * 3]
    assert json.loads(tollway(server, "usage", "--runs", "--json").stdout)["items"] == [item]
