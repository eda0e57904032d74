"""CPU of one LLM call as a worker makes it: plan, request, answer, cost. The simulated provider has its own process.

`python bench/llm_client.py` prints microseconds of process CPU a call; `--against CHECKOUT` measures another checkout's
client in turn with this one's, pair by pair, and prints the ratio, which a machine's drift leaves alone.
"""

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent.parent
SCENARIOS = {"partial": 0.05, "saturated": 0.0}
TEXT = "I paid with my card abroad yesterday and the exchange rate on my statement looks wrong to me. Number {}"


@dataclass(frozen=True, slots=True)
class Load:
    """What one measurement does: `concurrency` callers in closed loop, `seconds` measured after a warm-up."""

    url: str
    concurrency: int
    seconds: float


async def measure(load: Load) -> dict[str, float]:
    """Run the load in this process, with the client that is on its path."""
    from tollway.config import Price, Provider, Route  # noqa: PLC0415 - the path decides whose
    from tollway.domain.llm import LlmRequest  # noqa: PLC0415
    from tollway.llm.estimate import input_tokens  # noqa: PLC0415
    from tollway.llm.gateway import Gateway, GatewayOptions  # noqa: PLC0415
    from tollway.spend.prices import Prices  # noqa: PLC0415

    prices = Prices({"sim/m": Price(input_usd_per_mtok=Decimal("0.15"), output_usd_per_mtok=Decimal("0.60"))})
    route = Route(name="one", tier="fast", provider="sim", model="m")
    provider = Provider(kind="openai", base_url=load.url)
    gateway = Gateway([route], {"sim": provider}, prices, GatewayOptions())
    served = gateway.tiers.groups("fast")[0].routes[0]
    calls = 0
    over = False

    async def caller(number: int) -> None:
        nonlocal calls
        while not over:
            messages = [{"role": "system", "content": "Classify."}, {"role": "user", "content": TEXT.format(number)}]
            request = LlmRequest("fast", messages, 64)
            plan = gateway.plan(request, served, input_tokens(request))
            await gateway.execute(plan, f"0198f3c2-7d1e-7a3b-8c4d-{number:012d}", 30.0)
            calls += 1

    await gateway.start()
    callers = [asyncio.ensure_future(caller(number)) for number in range(load.concurrency)]
    await asyncio.sleep(min(1.0, load.seconds / 2))
    gc.collect()
    before, cpu, since = calls, time.process_time(), time.monotonic()
    await asyncio.sleep(load.seconds)
    made, cpu_s, took_s = calls - before, time.process_time() - cpu, time.monotonic() - since
    over = True
    await asyncio.gather(*callers)
    await gateway.stop()
    return {"cpu_us": cpu_s / made * 1e6, "calls_per_s": made / took_s}


def measured(checkout: Path, load: Load) -> dict[str, float]:
    """The same, in a fresh process on the sources of `checkout`."""
    command = [sys.executable, __file__, "--worker", load.url, str(load.concurrency), str(load.seconds)]
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def worker(arguments: list[str]) -> None:
    """The measuring process."""
    import uvloop  # noqa: PLC0415 - only here

    url, concurrency, seconds = arguments
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(measure(Load(url, int(concurrency), float(seconds))))))


def start_provider(latency_s: float) -> tuple[subprocess.Popen[str], str]:
    """A simulated provider and its base URL."""
    code = (
        "import asyncio, sys, uvloop\n"
        "from tollway.simulator.provider import start_provider_sim\n"
        "async def main():\n"
        "    sim = await start_provider_sim({'latency_s': float(sys.argv[1]), 'output_tokens': 20})\n"
        "    print(sim.url, flush=True)\n"
        "    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)\n"
        "uvloop.run(main())\n"
    )
    command = [sys.executable, "-c", code, str(latency_s)]
    environment = {**os.environ, "PYTHONPATH": str(HERE / "src")}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip() + "/v1"


def main() -> None:
    """Measure each scenario and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout of Tollway, measured in turn with this one")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--concurrency", type=int, default=64)
    asked = parser.parse_args()
    for name, latency_s in SCENARIOS.items():
        provider, url = start_provider(latency_s)
        try:
            load = Load(url, asked.concurrency, asked.seconds)
            mine, others = [], []
            for _ in range(asked.pairs):
                mine.append(measured(HERE, load))
                if asked.against is not None:
                    others.append(measured(asked.against, load))
        finally:
            provider.communicate()
        print(f"{name:<10} {told(mine)}")
        if others:
            ratios = [other["cpu_us"] / own["cpu_us"] for own, other in zip(mine, others, strict=True)]
            spread = f"{median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{'  against':<10} {told(others)}   {spread}")


def told(figures: list[dict[str, float]]) -> str:
    """Medians of some measurements."""
    cpu = [figure["cpu_us"] for figure in figures]
    rate = median(figure["calls_per_s"] for figure in figures)
    return f"{median(cpu):6.1f} µs CPU a call ({min(cpu):.1f} to {max(cpu):.1f}) at {rate:,.0f} calls/s"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2:])
    else:
        main()
