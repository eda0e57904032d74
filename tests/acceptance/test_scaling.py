"""The scaling signal on a whole Tollway: over HTTP as a scaler reads it, in the metrics, and on the command line."""

import json

from click.testing import CliRunner
from stack_kit import ADMIN_KEY, Http, Stack, until

from tollway.cli import main
from tollway.cli._output import console

FOUR = ("runnable", "blocked", "running", "wanted_workers")


def shell(stack: Stack, *words: str, code: int = 0) -> str:
    """A client command pointed at the stack; what it printed."""
    environ = {"TOLLWAY_URL": f"http://127.0.0.1:{stack.port}", "TOLLWAY_API_KEY": ADMIN_KEY, "COLUMNS": "150"}
    console.cache_clear()
    done = CliRunner().invoke(main, words, env=environ)
    console.cache_clear()
    assert done.exit_code == code, done.output
    return done.output


def test_a_backlog_wants_workers_and_lets_go(http: Http) -> None:
    """Running work and backlog are seen within a second or two, want workers, and want none when they are done."""
    runs = [{"agent": "slow", "input": 1.5, "lane": "batch"} for _ in range(200)]
    held = [{"agent": "slow", "input": 0, "lane": "batch", "delay_s": 600} for _ in range(5)]
    answer = http.post("/v1/runs/batch", {"runs": runs + held}).json
    ids = [result["run"]["id"] for result in answer["results"]]

    def seen() -> dict[str, int] | None:
        found = http.get("/v1/scaling?lane=batch").json
        return found if found["running"] and found["runnable"] else None

    found = until(seen, "a backlog")
    assert found["running"] + found["runnable"] <= 200
    assert found["wanted_workers"] >= 1
    assert found["reasons"]["time"] >= 5

    def at_rest() -> bool:
        found = http.get("/v1/scaling?lane=batch").json
        return bool(found["running"] == found["runnable"] == 0)  # between two waves nothing runs either

    until(at_rest, "the backlog to be done")
    for run_id in ids[200:]:
        assert http.post(f"/v1/runs/{run_id}/cancel").status == 202
    until(lambda: http.get("/v1/scaling?lane=batch").json["wanted_workers"] == 0, "nobody to be wanted")


def test_every_answer_has_the_four_numbers(http: Http, other_api: Http) -> None:
    """With and without a lane, of any API process, the four are whole numbers at the top: what KEDA reads."""
    for client in (http, other_api):
        for path in ("/v1/scaling", "/v1/scaling?lane=interactive"):
            found = client.get(path).json
            assert all(isinstance(found[name], int) for name in FOUR)
        assert [item["lane"] for item in client.get("/v1/scaling").json["items"]] == [
            "interactive",
            "standard",
            "batch",
        ]
    http.get("/v1/scaling?lane=nightly").problem(422, "unknown_lane")


def test_the_command_line(stack: Stack) -> None:
    """`tollway scaling` prints a line a lane, `--json` the answer itself; an unknown lane is told, with 1."""
    printed = shell(stack, "scaling")
    for word in ("interactive", "standard", "batch", "runnable", "workers wanted in all, 1 at work"):
        assert word in printed
    assert set(json.loads(shell(stack, "scaling", "--lane", "batch", "--json"))) >= {*FOUR, "lane"}
    assert "batch" in shell(stack, "scaling", "--lane", "batch")
    assert "interactive" in shell(stack, "scaling", "--lane", "nightly", code=1)
