"""Budgets as money meets them: many runs at once on four worker processes, judged by the provider's own ledger."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import count
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

[prices."sim/sim-capable"]
input_usd_per_mtok = 0.40
output_usd_per_mtok = 1.60

[prices."sim/sim-powerful"]
input_usd_per_mtok = 2.00
output_usd_per_mtok = 8.00
"""
LONG_TOKENS = 60
PACE = {
    "latency_s": 0.05,
    "output_tokens": OUTPUT_TOKENS,
    "models": {
        "sim-capable": {
            "output_tokens": LONG_TOKENS,
            "prices": {"input_usd_per_mtok": 0.40, "output_usd_per_mtok": 1.60},
        },
        "sim-powerful": {
            "output_tokens": LONG_TOKENS,
            "prices": {"input_usd_per_mtok": 2.00, "output_usd_per_mtok": 8.00},
        },
    },
}
AMPLE_USD = 1000


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Four workers, beside a provider that answers after 50 ms."""
    folder = tmp_path_factory.mktemp("budgets")
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    started = Stack(folder, "budget_agents", settings=SETTINGS)
    try:
        started.ready()
        assert started.sim.post("/sim/config", PACE).status == 200
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
    spent = charged(stack) - before
    print(f"parked: {spent / LIMIT_NANO:.2%} of the limit spent, by the provider's ledger")
    assert spent <= LIMIT_NANO
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
    spent = charged(stack) - before
    print(f"refused: {spent / LIMIT_NANO:.2%} of the limit spent, by the provider's ledger")
    assert USED_MIN * LIMIT_NANO <= spent <= LIMIT_NANO
    found = runs(strict)
    assert {run["state"] for run in found} == {"succeeded", "dead"}
    assert {run["error"]["code"] for run in found if run["state"] == "dead"} == {"budget_exhausted"}
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
    print(f"one run: {spent / LIMIT_NANO:.2%} of its budget spent, by the provider's ledger")
    assert USED_MIN * LIMIT_NANO <= spent <= LIMIT_NANO
    assert run["usage"]["cost_nano"] == spent
    assert run["output"] == {"made": spent // CALL_NANO, "budget_exhausted": 500 - spent // CALL_NANO}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rung", "route", "tokens"),
    [
        ("alert", "sim-powerful", LONG_TOKENS),
        ("throttle", "sim-powerful", LONG_TOKENS),
        ("lower_tier", "sim-capable", LONG_TOKENS),
        ("fewer_tokens", "sim-powerful", 32),
    ],
)
def test_a_rung_serves_and_says_so(stack: Stack, rung: str, route: str, tokens: int) -> None:
    """P12: on a mild rung a run succeeds, served as the rung has it; its document, an event and a metric say so."""
    client = tenant(stack, rung)
    force(stack, rung, budget(stack, rung, hard_usd=AMPLE_USD), rung)
    numbers = count()

    def stood() -> Any:
        run = client.result("careful", {"number": str(next(numbers))})
        return rung in run["degraded"] and run

    run = until(stood, f"a run on the rung {rung}")
    assert run["state"] == "succeeded"
    assert run["output"] == {"route": route, "tokens": tokens, "cached": False}
    told = [event["data"] for event in client.events(run["id"]) if event["type"] == "degraded"]
    assert rung in [data["rung"] for data in told]
    series = re.compile(rf'^tollway_degraded_total\{{process="worker-\d+",rung="{rung}"\}}', re.MULTILINE)
    until(lambda: series.search(metrics(stack)), "the metric")


@pytest.mark.slow
def test_only_kept_answers_are_given(stack: Stack) -> None:
    """P12: on `cached_only` what was asked before is answered, at no cost; a new question waits for the rung's end."""
    client = tenant(stack, "frugal")
    made = budget(stack, "frugal", hard_usd=AMPLE_USD)
    assert client.result("careful", {"number": "1"})["output"]["cached"] is False
    force(stack, "frugal", made, "cached_only")
    waits = until(lambda: waiting(client, client.submit("careful", {"number": "2"})["id"]), "a run that waits")
    before = charged(stack)
    assert client.result("careful", {"number": "1"})["output"]["cached"] is True
    assert charged(stack) == before
    force(stack, "frugal", made)
    assert client.ended(waits["id"])["state"] == "succeeded"


@pytest.mark.slow
def test_a_parked_budget_is_let_go_by_hand(stack: Stack) -> None:
    """P8, P12: on `park` runs wait and say why; once it is not forced any more they go on."""
    client = tenant(stack, "parked")
    made = budget(stack, "parked", hard_usd=AMPLE_USD)
    force(stack, "parked", made, "park")
    waits = until(lambda: waiting(client, client.submit("careful", {"number": "1"})["id"]), "a run that waits")
    force(stack, "parked", made)
    assert client.ended(waits["id"])["state"] == "succeeded"


@pytest.mark.slow
def test_a_refusing_budget_refuses_at_the_door(stack: Stack) -> None:
    """P11, P12: on `refuse` the door answers 403 with the time at which it opens, runs and the wire alike."""
    client = tenant(stack, "shut")
    force(stack, "shut", budget(stack, "shut", period="day", hard_usd=AMPLE_USD), "refuse")
    assert until(lambda: refused(client), "the door to close").problem(403, "budget_exhausted")["opens_at"] > "2026"
    body = {"model": "fast", "messages": [{"role": "user", "content": "Hi"}]}
    assert client.post("/v1/chat/completions", body).status == 403


@pytest.mark.slow
def test_what_was_spent_leads_down_the_ladder(stack: Stack) -> None:
    """P12: at its threshold of what was spent, and not before, a rung holds; lifted by hand it does not."""
    client = tenant(stack, "ladder")
    tenth = [{"at_pct": 10, "rung": "lower_tier"}]
    made = budget(stack, "ladder", hard_usd=0.02, ladder=tenth)
    numbers = count()

    def served_by(route: str) -> bool:
        early = spent(stack, "ladder") < 0.1 * 0.02e9
        run = client.result("careful", {"number": str(next(numbers))})
        assert run["output"]["route"] == "sim-powerful" or not early
        return bool(run["output"]["route"] == route)

    assert served_by("sim-powerful")
    until(lambda: served_by("sim-capable"), "the lower tier")
    assert spent(stack, "ladder") >= 0.1 * 0.02e9
    answer = stack.http.call("PUT", f"/v1/tenants/ladder/budgets/{made}/rungs", {"lifted": ["lower_tier"]})
    assert answer.status == 200, answer.body
    until(lambda: served_by("sim-powerful"), "the tier that was asked for")


def tenant(stack: Stack, name: str) -> Http:
    """A client with a key of a new tenant."""
    return stack.http.make_key(name, "submit", "read")


def budget(stack: Stack, name: str, period: str = "total", **fields: Any) -> int:
    """Set a tenant's only budget; its id."""
    answer = stack.http.call("PUT", f"/v1/tenants/{name}/budgets", {"budgets": [{"period": period, **fields}]})
    assert answer.status == 200, answer.body
    return int(answer.json["items"][0]["id"])


def force(stack: Stack, name: str, budget_id: int, *rungs: str) -> None:
    """Force rungs of a budget by hand, and no others."""
    answer = stack.http.call("PUT", f"/v1/tenants/{name}/budgets/{budget_id}/rungs", {"forced": list(rungs)})
    assert answer.status == 200, answer.body


def spent(stack: Stack, name: str) -> int:
    """What was spent of a tenant's only budget, nano-dollars."""
    return int(stack.http.items(f"/v1/tenants/{name}/budgets")[0]["spent_nano"])


def waiting(client: Http, run_id: str) -> Any:
    """The run if it waits for money; None if it has ended."""

    def settled() -> Any:
        run = client.run(run_id)
        return (run["state"] in FINAL or _says_why(run)) and run

    run = until(settled, "a run that ends or waits")
    return None if run["state"] in FINAL else run


def metrics(stack: Stack) -> str:
    """The metrics of all processes."""
    return stack.http.get("/metrics").body.decode()


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
