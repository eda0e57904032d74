"""Load from many clients at little cost, and what it showed: plan, generator, latencies, the wire."""

from tollway.simulator.load.generator import LoadGenerator, Mark
from tollway.simulator.load.latency import Latency
from tollway.simulator.load.plan import LoadPlan, LoadResult

__all__ = ["Latency", "LoadGenerator", "LoadPlan", "LoadResult", "Mark"]
