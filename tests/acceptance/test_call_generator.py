"""The generator of single calls, against a real `provider-sim` and against a server that does not behave."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tollway.simulator.bench.provider import Provider
from tollway.simulator.load import CallGenerator, CallPlan, CallResult

PROGRAM = (sys.executable, "-m", "tollway")


@pytest.fixture
async def provider(tmp_path: Path, unused_tcp_port: int) -> AsyncIterator[Provider]:
    """A provider that answers after 20 ms."""
    running = Provider(PROGRAM, tmp_path, unused_tcp_port, {"latency_s": 0.02, "output_tokens": 5})
    await running.start()
    yield running
    await running.stop()


async def calls(port: int, **wishes: object) -> CallResult:
    """A short load."""
    plan = {"clients": 4, "warmup_s": 0.1, "measure_s": 0.5, "drain_s": 5.0, "texts": ["one", "two"], **wishes}
    return await CallGenerator(CallPlan(port=port, api_key="k", model="sim-fast", **plan)).run()  # type: ignore[arg-type]


@pytest.mark.parametrize("stream", [False, True])
async def test_every_call_is_answered_and_timed(provider: Provider, stream: bool) -> None:
    """Plain or streamed, as many calls are in the provider's ledger as were answered, and none under its latency."""
    result = await calls(provider.port, stream=stream)
    assert result.clean
    assert (await provider.totals())["calls"] == result.answered > 0
    assert result.whole.count == result.first_byte.count > 0
    assert 20 <= result.first_byte.p50 <= result.whole.p50


async def test_refusals_are_counted_with_an_example(provider: Provider) -> None:
    """A 500 is no answer; the caller goes on."""
    await provider.configure(fault_rates={"status_500": 1.0})
    result = await calls(provider.port)
    assert result.refused.keys() == {"500"}
    assert result.examples
    assert not result.clean


async def test_a_killed_provider_comes_back_on_its_port(provider: Provider) -> None:
    """Calls cut by the kill are counted; started again, it serves as configured, with an empty ledger."""
    await provider.configure(latency_s=5)
    loading = asyncio.create_task(calls(provider.port, measure_s=1.0))
    async with asyncio.timeout(10):
        while (await provider.totals())["in_flight"] < 4:
            await asyncio.sleep(0.02)
    await provider.kill()
    assert provider.pid == -1
    assert (await loading).cut == 4
    await provider.start()
    assert (await provider.totals())["calls"] == 0
    assert (await calls(provider.port)).clean
    assert len(await provider.rows()) == (await provider.totals())["calls"]


def test_a_plan_of_calls_comes_over_stdin() -> None:
    """The generator's process tells a plan of calls from one of runs; with nobody to call it says so."""
    plan = {"load": "calls", "port": 1, "api_key": "k", "model": "m", "texts": ["x"]}
    command = [sys.executable, "-m", "tollway.simulator.bench.generate"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(plan).encode() + b"\n")
        process.stdin.flush()
        assert "cannot reach" in json.loads(process.stdout.readline())["error"]
        assert process.wait(30) == 1
