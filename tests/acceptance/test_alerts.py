"""Alerts, black-box: a budget that nears its end is told of over HTTP, on the command line and to both receivers."""

import base64
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from stack_kit import TOLLWAY, Stack, until
from standardwebhooks import Webhook

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
PACE = {
    "latency_s": {"mean": 0.01, "law": "constant"},
    "tokens_per_s": 0,
    "output_tokens": {"mean": 8, "law": "constant"},
}
ASKING = """
import tollway

@tollway.agent(tier="fast")
async def asking(run: tollway.Run, text: str) -> str:
    return (await run.llm(text, cache="off", max_tokens=20)).text
"""


class Receiver:
    """A real receiver of webhooks: what it was told, by path."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.told.append((self.path, Webhook(SECRET).verify(body, headers)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def types(self, path: str) -> set[str]:
        """What was told at a path."""
        return {f"{said['type']} {said['data']['data'].get('at_pct', '')}" for at, said in self.told if at == path}


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that listens."""
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()


@pytest.fixture
def alerted(tmp_path: Path) -> Iterator[tuple[Stack, Receiver]]:
    """A Tollway whose operator listens for alerts, and where."""
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    (tmp_path / "asking.py").write_text(ASKING)
    with receiving() as receiver:
        settings = f'[alerts]\nwebhook_url = "{receiver.url}/operator"\nwebhook_secret_env = "OPS_HOOK"\n'
        stack = Stack(tmp_path, "asking", settings=settings, OPS_HOOK=SECRET)
        try:
            stack.ready()
            assert stack.sim.post("/sim/config", PACE).status == 200
            yield stack, receiver
            assert stack.stop() == 0, stack.tail()
        finally:
            stack.stop()


def test_a_budget_that_nears_its_end_is_told_of(alerted: tuple[Stack, Receiver]) -> None:
    """Half of a budget and four fifths are told once each: listed, signed to operator and tenant, and counted (P12)."""
    stack, receiver = alerted
    http = stack.http
    hook = {"url": f"{receiver.url}/acme", "secret_env": "OPS_HOOK"}
    assert http.call("PUT", "/v1/tenants/acme", {"alert_webhook": hook}).status == 201
    acme = http.acting_for("acme")
    first = acme.result("asking", "What does a call cost?")
    cost = first["usage"]["cost_nano"]
    assert cost > 0
    limit = {"budgets": [{"period": "month", "hard_usd": 20 * cost / 1e9}]}
    assert http.call("PUT", "/v1/tenants/acme/budgets", limit).status == 200
    for _ in range(10):
        assert acme.result("asking", "What does a call cost?")["state"] == "succeeded"
    until(lambda: "alert.budget_soft 50.0" in receiver.types("/acme"), "half to be told of")
    for _ in range(6):
        assert acme.result("asking", "What does a call cost?")["state"] == "succeeded"
    until(lambda: "alert.budget_soft 80.0" in receiver.types("/acme"), "four fifths to be told of")
    until(lambda: receiver.types("/operator") >= receiver.types("/acme"), "the operator to be told")
    alerts = [alert for alert in http.items("/v1/alerts?kind=budget_soft&open=true") if alert["tenant"] == "acme"]
    assert [alert["data"]["at_pct"] for alert in alerts] == [80, 50]
    assert alerts[0]["data"]["spent_nano"] >= 16 * cost
    (budget,) = http.items("/v1/tenants/acme/budgets")
    assert alerts[0]["subject"] == budget["id"]
    assert budget["burn_usd_per_hour"] > 0
    shown = subprocess.run(
        [TOLLWAY, "alerts", "--json", "--url", f"http://127.0.0.1:{stack.port}"],
        env=stack.environ | {"TOLLWAY_API_KEY": str(http.key)},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert {alert["id"] for alert in alerts} <= {alert["id"] for alert in json.loads(shown.stdout)["items"]}
    until(lambda: b'tollway_alerts_total{kind="budget_soft"' in http.get("/metrics").body, "the count of alerts")
