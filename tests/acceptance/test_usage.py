"""The contract of usage, black-box: what runs cost is told by tenant, agent, tier and step, to the nano-dollar."""

import csv
import io
import uuid
from typing import Any

from stack_kit import Http, until


def report(http: Http, tenant: str, *groups: str) -> list[dict[str, Any]]:
    """A tenant's usage."""
    found: list[dict[str, Any]] = http.get(f"/v1/usage?tenant={tenant}&group_by={','.join(groups)}").json["items"]
    return found


def test_what_runs_cost_is_told(http: Http) -> None:
    """Usage by any group adds up to what the runs and their steps say; each run counts once. (P10)"""
    tenant = f"u{uuid.uuid4().hex[:8]}"
    assert http.call("PUT", f"/v1/tenants/{tenant}", {}).status == 201
    mine = http.acting_for(tenant)
    runs = [mine.result("ask", f"{tenant} {n}", metadata={"task_type": f"t{n % 2}"}) for n in range(4)]
    cost = sum(run["usage"]["cost_nano"] for run in runs)
    calls = sum(run["usage"]["llm_calls"] for run in runs)
    assert cost
    whole = until(
        lambda: next((row for row in report(http, tenant, "tenant") if row["runs"] == len(runs)), None), "usage", 30
    )
    assert (whole["cost_nano"], whole["calls"], whole["unknown_nano"]) == (cost, calls, 0)
    assert whole["cost_usd"] == cost / 1e9
    for name in ("input_tokens", "output_tokens", "cached_tokens"):
        assert whole[name] == sum(run["usage"][name] for run in runs)
    for groups in (("agent",), ("tier", "route"), ("step",), ("key", "lane"), ("task_type",), ("day", "agent", "tier")):
        rows = report(http, tenant, *groups)
        assert sum(row["cost_nano"] for row in rows) == cost
        assert all(set(row) >= {*groups, "runs", "calls", "saved_usd"} for row in rows)
    assert [(row["task_type"], row["runs"]) for row in report(http, tenant, "task_type")] == [("t0", 2), ("t1", 2)]
    paid = [step for run in runs for step in mine.steps(run["id"]) if step["calls"]]
    for row in report(http, tenant, "step"):
        named = [step for step in paid if step["name"] == row["step"]]
        assert (row["calls"], row["cost_usd"]) == (len(named), round(sum(step["cost_usd"] for step in named), 9))
    spread = mine.get("/v1/usage/runs").json["items"]
    assert [(row["agent"], row["runs"], row["states"]) for row in spread] == [("ask", 4, {"succeeded": 4})]
    answer = http.get(f"/v1/usage?tenant={tenant}&group_by=agent", accept="text/csv")
    assert [row["cost_nano"] for row in csv.DictReader(io.StringIO(answer.body.decode()))] == [str(cost)]
