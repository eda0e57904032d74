"""Budgets as money meets them: many runs at once on four worker processes, judged by the provider's own ledger."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from stack_kit import FINAL, Http, Stack, until

RUNS, PAID_FOR = 2000, 300
PAGE = 500
INPUT_TOKENS, OUTPUT_TOKENS = 8, 8
CALL_NANO = INPUT_TOKENS * 150 + OUTPUT_TOKENS * 600
"""What a call of `spender` costs: at most twice that is reserved for it, less than one per cent of the budgets here."""

LIMIT_NANO = PAID_FOR * CALL_NANO
USED_MIN = 0.98
PATIENCE_S = 90.0
SETTINGS = """
[worker]
processes = 4
slots = 250
tenant_share_max = 1
agent_share_max = 1
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Four workers, beside a provider that answers after 50 ms."""
    folder = tmp_path_factory.mktemp("budgets")
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    started = Stack(folder, "budget_agents", settings=SETTINGS)
    try:
        started.ready()
        pace = {"latency_s": 0.05, "output_tokens": OUTPUT_TOKENS}
        assert started.sim.post("/sim/config", pace).status == 200
        yield started
        assert started.stop() == 0, started.tail()
    finally:
        started.stop()


@pytest.mark.slow
def test_2000_runs_at_once_stay_within_a_budget_for_300(stack: Stack) -> None:
    """P4, P8: at the provider at most the limit and at least 98 % of it; the rest waits, and goes on with money."""
    acme = tenant(stack, "acme")
    budget(stack, "acme", hard_usd=LIMIT_NANO / 1e9)
    before = charged(stack)
    submit(acme, RUNS)
    until(lambda: charged(stack) - before >= USED_MIN * LIMIT_NANO, "the budget to be used", PATIENCE_S)
    until(lambda: states(acme).keys() <= {"succeeded", "queued", "parked"}, "the calls under way", PATIENCE_S)
    assert charged(stack) - before <= LIMIT_NANO
    found = states(acme)
    assert found["succeeded"] == sum(found.values()) - found["queued"] - found["parked"]
    assert found["succeeded"] <= PAID_FOR
    waiting = [run for run in runs(acme) if run["state"] in ("queued", "parked")]
    until(lambda: all(_says_why(acme.run(run["id"])) for run in waiting[:20]), "the reason of those that wait")

    budget(stack, "acme", hard_usd=RUNS * 2 * CALL_NANO / 1e9)
    until(lambda: states(acme)["succeeded"] == RUNS, "the rest, once there is money", PATIENCE_S)
    assert charged(stack) - before == RUNS * CALL_NANO


@pytest.mark.slow
def test_what_a_spent_budget_refuses_says_so(stack: Stack) -> None:
    """P4, P12: with `refuse`, runs that find no money fail with `budget_exhausted`, and the door answers 403."""
    strict = tenant(stack, "strict")
    budget(stack, "strict", hard_usd=LIMIT_NANO / 1e9, on_hard="refuse", period="day")
    before = charged(stack)
    submit(strict, RUNS)
    until(lambda: states(strict).keys() <= set(FINAL), "every run's end", PATIENCE_S)
    assert USED_MIN * LIMIT_NANO <= charged(stack) - before <= LIMIT_NANO
    found = runs(strict)
    assert {run["state"] for run in found} == {"succeeded", "failed"}
    assert {run["error"]["code"] for run in found if run["state"] == "failed"} == {"budget_exhausted"}
    answer = until(lambda: refused(strict), "the door to close")
    assert answer.problem(403, "budget_exhausted")["opens_at"] > "2026"


@pytest.mark.slow
def test_a_runs_own_budget_holds_for_500_calls_at_once(stack: Stack) -> None:
    """P4: five hundred calls of one run at once spend at most its `budget_usd`, and at least 98 % of it."""
    tree = tenant(stack, "tree")
    before = charged(stack)
    run = tree.result("spender_of_many", {}, budget_usd=LIMIT_NANO / 1e9)
    assert run["state"] == "succeeded", run["error"]
    spent = charged(stack) - before
    assert USED_MIN * LIMIT_NANO <= spent <= LIMIT_NANO
    assert run["usage"]["cost_nano"] == spent
    assert run["output"] == {"made": spent // CALL_NANO, "budget_exhausted": 500 - spent // CALL_NANO}


def tenant(stack: Stack, name: str) -> Http:
    """A client with a key of a new tenant."""
    return stack.http.make_key(name, "submit", "read")


def budget(stack: Stack, name: str, period: str = "total", **fields: Any) -> None:
    """Set a tenant's only budget."""
    answer = stack.http.call("PUT", f"/v1/tenants/{name}/budgets", {"budgets": [{"period": period, **fields}]})
    assert answer.status == 200, answer.body


def submit(client: Http, count: int) -> None:
    """So many runs at once, all of them accepted."""
    wanted = [{"agent": "spender", "input": {"number": str(number)}} for number in range(count)]
    answer = client.post("/v1/runs/batch", {"runs": wanted})
    assert answer.status == 200, answer.body
    assert {result["status"] for result in answer.json["results"]} == {202}


def refused(client: Http) -> Any:
    """What the door says when it refuses a run; None while it does not."""
    answer = client.post("/v1/runs", {"agent": "spender", "input": {"number": "0"}})
    return None if answer.status == 202 else answer


def charged(stack: Stack) -> int:
    """Nano-dollars that the provider charged so far."""
    return int(stack.sim.get("/sim/ledger?totals=1").json["totals"]["cost_nano"])


def runs(client: Http) -> list[dict[str, Any]]:
    """Every run of a tenant."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = client.get(f"/v1/runs?limit={PAGE}{cursor}").json
        found += page["items"]
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"


def states(client: Http) -> Counter[str]:
    """How many runs of a tenant are in which state."""
    return Counter(run["state"] for run in runs(client))


def _says_why(run: dict[str, Any]) -> bool:
    return run["state"] in FINAL or (run["blocked"] is not None and "budget" in run["blocked"]["reason"])
