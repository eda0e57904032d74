"""What a further LLM call costs: runs of ten calls against runs of one, both saturated, on the same stack."""

from tollway.simulator.bench.harness import BenchOptions, Watcher, measure
from tollway.simulator.bench.project import ONE_CALL, TEN_CALLS
from tollway.simulator.bench.report import Figure, ScenarioReport, phase, problems
from tollway.simulator.bench.stack import running

CLIENTS = 512
CALLS = 10
POLL_S = 0.15


async def run(options: BenchOptions, watcher: Watcher) -> ScenarioReport:
    """(CPU of a run of ten - CPU of a run of one) / 9.

    Runs of ten last ten times as long, so they are polled ten times as seldom: the calls differ, not the polls.
    """
    watcher.stage("starting")
    async with running(options.stack()) as stack:
        short = options.plan(stack, ONE_CALL, clients=CLIENTS, measure_s=15.0, poll_s=POLL_S)
        one = await measure(stack, short, watcher)
        long = options.plan(
            stack,
            TEN_CALLS,
            clients=CLIENTS,
            measure_s=20.0,
            poll_s=POLL_S * CALLS,
            provider_s=0.05 * CALLS,
            first_serial=500_000_000,
        )
        ten = await measure(stack, long, watcher)
    further = (ten.cpu_ms_per_run_total - one.cpu_ms_per_run_total) / (CALLS - 1)
    return ScenarioReport(
        scenario="ten-calls",
        figures=[
            Figure(name="CPU of each further call", value=round(further, 3), unit="ms", bound=0.4),
            Figure(name="CPU of a run of one call", value=round(one.cpu_ms_per_run_total, 3), unit="ms"),
            Figure(name="CPU of a run of ten calls", value=round(ten.cpu_ms_per_run_total, 3), unit="ms"),
            Figure(name="calls in runs of ten", value=round(ten.load.runs_per_s * CALLS, 1), unit="/s"),
        ],
        phases=[phase("one call", one), phase("ten calls", ten)],
        problems=[
            *(f"one call: {text}" for text in problems(one, calls_per_run=1)),
            *(f"ten calls: {text}" for text in problems(ten, calls_per_run=CALLS)),
        ],
    )
