"""What the wire adds to a call: the same requests posted to the provider and through Tollway, plain and as streams."""

from tollway.simulator.bench.harness import BenchOptions, CallsMeasured, Watcher, measure_calls
from tollway.simulator.bench.project import Project, RouteSetup
from tollway.simulator.bench.report import Figure, ScenarioReport, call_phase, call_problems
from tollway.simulator.bench.stack import Stack, running
from tollway.simulator.load.calls import CallPlan

CLIENTS = 32
MODEL = "sim-fast"
LATENCY_S = 0.05
_LIMITS = {"rpm": 100_000_000, "tpm": 100_000_000_000, "latency_p99_max_s": 30}
_NOT_LIMITED = 1e9
_SERIALS = 50_000_000

PROJECT = Project(routes=(RouteSetup(model=MODEL, keys=_LIMITS),))


async def run(options: BenchOptions, watcher: Watcher) -> ScenarioReport:
    """CPU and p99 added to each call by keys, route limits that do not bind, breaker and ledger; the cache is off.

    At 50 ms a call 32 connections leave CPU to spare: the difference in latency is the wire's own. Then the provider
    answers at once, for the throughput of one API process.
    """
    watcher.stage("starting")
    provider = {"rpm": _NOT_LIMITED, "tpm": _NOT_LIMITED}
    async with running(options.stack(provider=provider, project=PROJECT)) as stack:
        key = await stack.tenant_key("bench")
        loads = _Loads(options, stack, key, watcher)
        direct = await loads.measured(wire=False)
        wire = await loads.measured(wire=True)
        direct_stream = await loads.measured(wire=False, stream=True)
        wire_stream = await loads.measured(wire=True, stream=True)
        await stack.providers[0].configure(latency_s=0)
        full = await loads.measured(wire=True)
    named = {
        "direct": direct,
        "wire": wire,
        "direct, streams": direct_stream,
        "wire, streams": wire_stream,
        "wire, at once": full,
    }
    return ScenarioReport(
        scenario="wire",
        figures=[
            Figure(name="CPU a call", value=round(wire.cpu_ms_per_call_total, 3), unit="ms", bound=0.35),
            Figure(name="added p50", value=_added(wire, direct, "p50"), unit="ms"),
            Figure(name="added p99", value=_added(wire, direct, "p99"), unit="ms", bound=10),
            Figure(name="calls, provider of 50 ms", value=wire.load.calls_per_s, unit="/s"),
            Figure(name="calls, provider at once", value=full.load.calls_per_s, unit="/s"),
            Figure(name="CPU a call, provider at once", value=round(full.cpu_ms_per_call_total, 3), unit="ms"),
            Figure(name="CPU a stream of 20 tokens", value=round(wire_stream.cpu_ms_per_call_total, 3), unit="ms"),
            Figure(name="streams, provider of 50 ms", value=wire_stream.load.calls_per_s, unit="/s"),
            Figure(name="added to the first byte, p99", value=_added_first(wire_stream, direct_stream), unit="ms"),
            Figure(name="added to a whole stream, p99", value=_added(wire_stream, direct_stream, "p99"), unit="ms"),
        ],
        phases=[],
        calls=[call_phase(name, measured) for name, measured in named.items()],
        problems=[f"{name}: {text}" for name, measured in named.items() for text in call_problems(measured)],
    )


class _Loads:
    """The same load again and again, no prompt twice."""

    def __init__(self, options: BenchOptions, stack: Stack, key: str, watcher: Watcher) -> None:
        self._options = options
        self._stack = stack
        self._key = key
        self._watcher = watcher
        self._made = 0

    async def measured(self, *, wire: bool, stream: bool = False) -> CallsMeasured:
        options, stack = self._options, self._stack
        self._made += 1
        plan = CallPlan(
            port=stack.port if wire else stack.providers[0].port,
            api_key=self._key,
            model=MODEL,
            texts=list(options.texts),
            clients=options.clients or CLIENTS,
            stream=stream,
            warmup_s=2.0 if options.warmup_s is None else options.warmup_s,
            measure_s=8.0 if options.measure_s is None else options.measure_s,
            first_serial=self._made * _SERIALS,
        )
        return await measure_calls(stack, plan, self._watcher)


def _added(wire: CallsMeasured, direct: CallsMeasured, share: str) -> float:
    added: float = getattr(wire.load.whole, share) - getattr(direct.load.whole, share)
    return round(added, 3)


def _added_first(wire: CallsMeasured, direct: CallsMeasured) -> float:
    return round(wire.load.first_byte.p99 - direct.load.first_byte.p99, 3)
