"""The scenarios by name, in the order they run."""

from collections.abc import Awaitable, Callable

from tollway.simulator.bench.harness import BenchOptions, Watcher
from tollway.simulator.bench.report import ScenarioReport
from tollway.simulator.bench.scenarios import (
    backlog,
    documents,
    failover,
    fairness,
    in_flight,
    isolation,
    limits,
    money,
    overload,
    paced,
    repeats,
    saturated,
    savings,
    ten_calls,
    wire,
)

Scenario = Callable[[BenchOptions, Watcher], Awaitable[ScenarioReport]]

SCENARIOS: dict[str, Scenario] = {
    "saturated": saturated.run,
    "paced": paced.run,
    "in-flight": in_flight.run,
    "ten-calls": ten_calls.run,
    "wire": wire.run,
    "failover": failover.run,
    "repeats": repeats.run,
    "limits": limits.run,
    "savings": savings.run,
    "money": money.run,
    "backlog": backlog.run,
    "isolation": isolation.run,
    "fairness": fairness.run,
    "overload": overload.run,
    "documents": documents.run,
}
