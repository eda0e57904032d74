"""Load from many clients at little cost, and what it showed: plan, generator, latencies, the wire."""

from tollway.simulator.load.calls import CallGenerator, CallPlan, CallResult
from tollway.simulator.load.generator import LoadGenerator, Mark
from tollway.simulator.load.latency import Latency
from tollway.simulator.load.plan import LoadPlan, LoadResult, RunSeen

__all__ = [
    "CallGenerator",
    "CallPlan",
    "CallResult",
    "Latency",
    "LoadGenerator",
    "LoadPlan",
    "LoadResult",
    "Mark",
    "RunSeen",
]
