"""A steady stream: 300 runs a second start on time, whatever the answers take (open loop)."""

from tollway.simulator.bench.harness import BenchOptions, Watcher, measure
from tollway.simulator.bench.project import ONE_CALL
from tollway.simulator.bench.report import Figure, ScenarioReport, phase, problems
from tollway.simulator.bench.stack import running

RATE_PER_S = 300
CONNECTIONS = 400


async def run(options: BenchOptions, watcher: Watcher) -> ScenarioReport:
    """Latency with CPU to spare. The provider's time is taken as the configured 50 ms: its lateness counts as ours."""
    watcher.stage("starting")
    async with running(options.stack()) as stack:
        plan = options.plan(stack, ONE_CALL, clients=CONNECTIONS, rate_per_s=RATE_PER_S)
        measured = await measure(stack, plan, watcher)
    load = measured.load
    return ScenarioReport(
        scenario="paced",
        figures=[
            Figure(name="runs", value=load.runs_per_s, unit="/s", bound=RATE_PER_S * 0.98, side="at least"),
            Figure(name="runs due but never sent", value=load.unsent, unit="", bound=0),
            Figure(name="accept p50", value=load.accept.p50, unit="ms"),
            Figure(name="accept p99", value=load.accept.p99, unit="ms", bound=25),
            Figure(name="end to end - provider p50", value=load.overhead.p50, unit="ms"),
            Figure(name="end to end - provider p99", value=load.overhead.p99, unit="ms", bound=60),
            Figure(name="CPU a run", value=round(measured.cpu_ms_per_run_total, 3), unit="ms"),
        ],
        phases=[phase("paced", measured)],
        problems=problems(measured, calls_per_run=1),
    )
