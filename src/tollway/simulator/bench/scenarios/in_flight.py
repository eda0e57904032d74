"""Many runs open at once: 2,000 wait 30 s for their provider, and each that ends is followed by another."""

from dataclasses import replace

from tollway.simulator.bench.harness import BenchOptions, Measured, Watcher, measure
from tollway.simulator.bench.project import ONE_CALL
from tollway.simulator.bench.report import Figure, ScenarioReport, phase, problems
from tollway.simulator.bench.stack import running

RUNS = 2000
LATENCY_S = 30.0
RAMP_S = 15.0
POLL_S = 2.0
_KIB = 1024


async def run(options: BenchOptions, watcher: Watcher) -> ScenarioReport:
    """Accept latency while all are open, and memory a run.

    Clients start over 15 s, the window opens when all are in flight and spans a whole provider latency, in which each
    client sees its run end and submits the next: its times are its own. A run of 30 s is polled every 2 s.
    """
    watcher.stage("starting")
    runs = options.clients or RUNS
    async with running(options.stack(slots=2 * runs, provider={"latency_s": LATENCY_S})) as stack:
        plan = replace(options, warmup_s=None, measure_s=None).plan(
            stack,
            ONE_CALL,
            clients=runs,
            ramp_s=RAMP_S,
            warmup_s=RAMP_S + 1,
            measure_s=LATENCY_S,
            drain_s=LATENCY_S * 3,
            poll_s=POLL_S,
            provider_s=LATENCY_S,
        )
        measured = await measure(stack, plan, watcher)
    load = measured.load
    return ScenarioReport(
        scenario="in-flight",
        figures=[
            Figure(name="runs in flight", value=runs, unit=""),
            Figure(name="accept p50", value=load.accept.p50, unit="ms"),
            Figure(name="accept p99", value=load.accept.p99, unit="ms", bound=25),
            Figure(name="end to end - provider p99", value=load.overhead.p99, unit="ms"),
            Figure(name="memory a run, worker", value=_kib_per_run(measured, "worker", runs), unit="KiB"),
            Figure(name="memory a run, api", value=_kib_per_run(measured, "api", runs), unit="KiB"),
        ],
        phases=[phase("in-flight", measured)],
        problems=problems(measured, calls_per_run=1),
    )


def _kib_per_run(measured: Measured, role: str, runs: int) -> float:
    grown = measured.rss_loaded.get(role, 0) - measured.rss_idle.get(role, 0)
    return round(grown / _KIB / runs, 1)
