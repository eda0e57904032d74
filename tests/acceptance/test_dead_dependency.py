"""A dependency dies and comes back, as callers and operators of a whole Tollway see it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stack_kit import TOLLWAY, Http, Stack, until

RUNS = 30
SETTINGS = """
[worker]
processes = 2
slots = 50

[dependencies.crm]
open_s = 10
ramp_s = 1
"""


@pytest.fixture
def dependent(tmp_path: Path) -> Iterator[Stack]:
    """Two worker processes whose agents need a service."""
    stack = Stack(tmp_path, "dependent_agents", settings=SETTINGS)
    try:
        yield stack.ready()
    finally:
        stack.stop()


def breaker(http: Http) -> dict[str, Any]:
    """The breaker of the service as all processes see it together."""
    dependencies = http.get("/v1/routes").json["dependencies"]
    found: dict[str, Any] = next((one["breaker"] for one in dependencies if one["name"] == "crm"), {"state": ""})
    return found


def cli(stack: Stack, *arguments: str) -> str:
    """What a command prints."""
    environ = {**stack.environ, "TOLLWAY_API_KEY": stack.environ["TOLLWAY_ADMIN_KEY"], "COLUMNS": "200"}
    environ["TOLLWAY_URL"] = f"http://127.0.0.1:{stack.port}"
    done = subprocess.run([TOLLWAY, *arguments], env=environ, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


def test_runs_wait_while_their_dependency_is_dead_and_run_when_it_is_back(dependent: Stack, tmp_path: Path) -> None:
    """P8: held runs do not start, say why, and run in order afterwards; optional work goes on without."""
    http, service = dependent.http, tmp_path / "service"
    pokes = [http.submit("pokes", str(service))["id"] for _ in range(12)]

    def one_parked() -> bool:
        """Those that were all under way when the breaker opened found no closed door: so poke again."""
        pokes.append(http.submit("pokes", str(service))["id"])
        return any(http.run(poke)["state"] == "parked" for poke in pokes[-20:])

    until(one_parked, "a call that finds the door closed")
    skips = http.result("enriches", str(service))
    assert (skips["output"], skips["degraded"]) == (None, ["skipped:crm"])
    answer = http.post("/v1/runs/batch", {"runs": [{"agent": "syncs", "input": str(service)}] * RUNS})
    ids = [result["run"]["id"] for result in answer.json["results"]]
    blocked = until(lambda: http.run(ids[-1])["blocked"], "the reason why a run is held")
    assert (blocked["reason"], blocked["key"]) == ("dependency", "crm")
    until(lambda: breaker(http)["state"] == "open", "the breaker to be shown")
    assert "crm" in cli(dependent, "routes")
    assert "dependency crm" in cli(dependent, "show", ids[-1])
    held = [http.run(run_id) for run_id in ids]
    assert {(run["state"], run["started_at"]) for run in held} == {("queued", None)}
    service.touch()
    runs = [http.ended(run_id) for run_id in ids]
    assert {(run["state"], run["attempt"]) for run in runs} == {("succeeded", 1)}
    assert "parked" not in {event["type"] for run_id in ids for event in http.events(run_id)}
    started = sorted(range(RUNS), key=lambda n: runs[n]["started_at"])
    assert max(started[:8]) < RUNS / 2, f"the first in place were not the first to start: {started}"
    until(lambda: breaker(http)["state"] == "closed", "the breaker to close")
