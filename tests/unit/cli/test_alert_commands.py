"""`tollway alerts`, and a tenant's receiver of them: what is asked, what is printed."""

import json
import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from urllib.parse import parse_qsl

import pytest
from command_kit import tollway
from contract_server import KEY, ContractServer, Reply

ALERT = {
    "id": "019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071",
    "kind": "budget_soft",
    "tenant": "acme",
    "subject": "3",
    "at": "2026-01-31T12:00:00.000Z",
    "data": {"budget": "3", "spent_usd": 80.5, "spent_nano": 80_500_000_000, "at_pct": 80, "ends_at": None},
    "over_at": None,
}


def test_alerts_are_listed(server: ContractServer) -> None:
    """The list shows what was told in words, amounts in dollars; filters go to the server; JSON is as it came."""
    server.on("GET /v1/alerts", Reply(200, {"items": [ALERT], "next": None}))
    shown = tollway(server, "alerts", "--tenant", "acme", "--kind", "budget_soft", "--open", "--since", "2h")
    assert shown.exit_code == 0
    assert all(word in shown.stdout for word in ("budget_soft", "acme", "spent_usd=80.5", "at_pct=80"))
    assert "nano" not in shown.stdout
    query = dict(parse_qsl(server.asked("GET /v1/alerts")[-1].query))
    assert query.pop("since").endswith("Z")
    assert query == {"tenant": "acme", "kind": "budget_soft", "open": "true"}
    assert json.loads(tollway(server, "alerts", "--json").stdout) == {"items": [ALERT], "next": None}
    assert tollway(server, "alerts", "--kind", "odd").exit_code == 2


def test_small_amounts_are_readable(server: ContractServer) -> None:
    """Thousandths of a cent stand in digits, not in powers of ten; whole numbers without a fraction."""
    data = {"at_pct": 80.0, "hard_usd": 0.00001, "spent_usd": 0.000000001, "left_usd": 1_000_000_000.0}
    server.on("GET /v1/alerts", Reply(200, {"items": [{**ALERT, "data": data}], "next": None}))
    shown = tollway(server, "alerts").stdout
    assert all(
        word in shown for word in ("at_pct=80 ", "hard_usd=0.00001 ", "spent_usd=0.000000001", "left_usd=1000000000")
    )


def test_since_before_all_time_is_since_ever(server: ContractServer) -> None:
    """A duration longer than any calendar asks for all alerts there are."""
    server.on("GET /v1/alerts", Reply(200, {"items": [], "next": None}))
    assert tollway(server, "alerts", "--since", "99999999999d").exit_code == 0
    assert dict(parse_qsl(server.asked("GET /v1/alerts")[-1].query))["since"].startswith("1970-01-01T")


def test_without_alerts_it_says_so(server: ContractServer) -> None:
    """An empty list is a sentence."""
    server.on("GET /v1/alerts", Reply(200, {"items": [], "next": None}))
    assert "no alerts" in tollway(server, "alerts").stdout


def test_new_alerts_are_followed(server: ContractServer) -> None:
    """`--follow` prints each alert once, those there first, as lines, until Ctrl-C; new by the server's clock."""
    newer = {
        **ALERT,
        "id": "019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6072",
        "subject": "4",
        "over_at": "2026-01-31T12:00:00.000Z",
    }
    server.on("GET /v1/alerts", Reply(200, {"items": [ALERT], "next": None}))
    with subprocess.Popen(
        [sys.executable, "-m", "tollway", "alerts", "--follow", "--json"],
        env={**os.environ, "TOLLWAY_URL": server.url, "TOLLWAY_API_KEY": KEY},
        stdout=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline()) == ALERT
        server.on("GET /v1/alerts", Reply(200, {"items": [newer, ALERT], "next": None}))
        assert json.loads(following.stdout.readline()) == newer
        following.send_signal(signal.SIGINT)
        assert following.stdout.read() == ""
        assert following.wait(timeout=20) == 130
    asked = dict(parse_qsl(server.asked("GET /v1/alerts")[-1].query))
    assert datetime.fromisoformat(str(ALERT["at"])) - datetime.fromisoformat(asked["since"]) == timedelta(seconds=30)


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (["--alert-webhook", "https://a.test"], {"url": "https://a.test", "secret_env": None}),
        (
            ["--alert-webhook", "https://a.test", "--alert-secret-env", "A"],
            {"url": "https://a.test", "secret_env": "A"},
        ),
        (["--alert-webhook", "none"], None),
    ],
)
def test_a_tenants_receiver_is_set(server: ContractServer, words: list[str], sent: object) -> None:
    """`tenant set` sends the receiver, `none` takes it away."""
    server.on("PUT /v1/tenants/acme", Reply(200, {"id": "acme"}))
    assert tollway(server, "tenant", "set", "acme", *words).exit_code == 0
    assert server.asked("PUT /v1/tenants/acme")[-1].body == {"alert_webhook": sent}


def test_a_secret_needs_a_receiver(server: ContractServer) -> None:
    """The name of a secret without an address is a usage error."""
    assert tollway(server, "tenant", "set", "acme", "--alert-secret-env", "A").exit_code == 2
