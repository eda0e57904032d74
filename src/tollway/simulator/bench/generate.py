"""The load generator as a process of its own: a plan as one JSON line on stdin, JSON lines on stdout.

Lines out: `{"mark": "begin" | "end"}` at the borders of the measured window, `{"progress": [accepted, done, open]}`
each second, and last `{"result": …}` or `{"error": …}`. When stdin closes, the parent has gone and so does this.
"""

import asyncio
import gc
import os
import resource
import sys
from typing import Any

import msgspec
import uvloop

from tollway.simulator.load import CallGenerator, CallPlan, CallResult, LoadGenerator, LoadPlan, LoadResult
from tollway.simulator.load.wire import BadAnswer

_GONE = 70


def _say(message: dict[str, Any]) -> None:
    os.write(1, msgspec.json.encode(message) + b"\n")


def _parent_gone() -> None:
    if not os.read(0, 1):
        os._exit(_GONE)


def _mark(mark: str) -> None:
    _say({"mark": mark})


def _progress(accepted: int, done: int, busy: int) -> None:
    _say({"progress": [accepted, done, busy]})


async def _run(plan: LoadPlan | CallPlan) -> LoadResult | CallResult:
    asyncio.get_running_loop().add_reader(0, _parent_gone)
    if isinstance(plan, CallPlan):
        return await CallGenerator(plan, _mark, _progress).run()
    return await LoadGenerator(plan, _mark, _progress).run()


def main() -> int:
    """Carry out the plan on stdin; 0 when there is a result."""
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=LoadPlan | CallPlan)
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    gc.freeze()
    gc.disable()  # a job of a minute without cycles to speak of: a collection would only show up as latency
    try:
        result = uvloop.run(_run(plan))
    except OSError as error:
        _say({"error": f"cannot reach {plan.host}:{plan.port}: {error}"})
        return 1
    except BadAnswer as error:
        _say({"error": f"the runs cannot be understood: {error}"})
        return 1
    _say({"result": msgspec.to_builtins(result)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
