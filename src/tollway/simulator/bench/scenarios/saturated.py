"""All that goes: a closed loop of clients, each submitting a run of one call, polling until final, and repeating."""

from tollway.simulator.bench.harness import BenchOptions, Watcher, measure
from tollway.simulator.bench.project import ONE_CALL
from tollway.simulator.bench.report import Figure, ScenarioReport, phase, problems
from tollway.simulator.bench.stack import running

CLIENTS = 512


async def run(options: BenchOptions, watcher: Watcher) -> ScenarioReport:
    """Runs a second, CPU a run, latencies under saturation, and what was left over when the clients stopped."""
    watcher.stage("starting")
    async with running(options.stack()) as stack:
        plan = options.plan(stack, ONE_CALL, clients=CLIENTS)
        measured = await measure(stack, plan, watcher)
    load = measured.load
    return ScenarioReport(
        scenario="saturated",
        figures=[
            Figure(name="runs", value=load.runs_per_s, unit="/s", bound=1500, side="at least"),
            Figure(name="CPU a run", value=round(measured.cpu_ms_per_run_total, 3), unit="ms", bound=0.8),
            Figure(
                name="backlog when the clients stopped",
                value=round(load.backlog / max(load.runs_per_s, 0.1), 3),
                unit="s of work",
                bound=1.0,
            ),
            Figure(name="accept p50", value=load.accept.p50, unit="ms"),
            Figure(name="accept p99", value=load.accept.p99, unit="ms"),
            Figure(name="accept p99.9", value=load.accept.p999, unit="ms"),
            Figure(name="end to end p50", value=load.end_to_end.p50, unit="ms"),
            Figure(name="end to end p99", value=load.end_to_end.p99, unit="ms"),
        ],
        phases=[phase("saturated", measured)],
        problems=problems(measured, calls_per_run=1),
    )
