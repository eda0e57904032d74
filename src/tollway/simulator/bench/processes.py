"""The processes under test: started with one log for all in their folder, stopped politely, then by force."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from tollway.domain.errors import TollwayError
from tollway.processes import Child, spawn
from tollway.simulator.load.wire import BadAnswer

_READY_S = 60.0
_STOP_S = 45.0
_LOOK_EVERY_S = 0.05
_LOG = "log.txt"
_LOG_TAIL_BYTES = 3000


class StackFailed(TollwayError):
    """A process of the system under test did not come up, or ended by itself; the message holds the end of its log."""


def start_program(command: Sequence[str], folder: Path, extra: Mapping[str, str] | None = None) -> Child:
    """Start `command` in `folder`, with this process' environment and `extra`. Raises StackFailed."""
    with (folder / _LOG).open("ab") as log:
        try:
            environment = {**os.environ, **(extra or {})}
            return spawn(list(command), death_signal=signal.SIGTERM, env=environment, cwd=folder, output=log)
        except OSError as error:
            raise StackFailed(f"cannot start {command[0]}: {error}") from error


async def stop_program(process: Child) -> None:
    """SIGTERM, and SIGKILL when that does not end it in time."""
    process.send(signal.SIGTERM)
    if await process.wait_at_most(_STOP_S) is None:
        process.kill()
        await process.wait()


async def until_answers(question: Callable[[], Awaitable[object]], check: Callable[[], None], folder: Path) -> None:
    """Ask until there is an answer; `check` raises when there can be none. Raises StackFailed after a minute."""
    stop = time.monotonic() + _READY_S
    while True:
        check()
        try:
            await question()
            return
        except (OSError, BadAnswer, TimeoutError) as error:
            if time.monotonic() > stop:
                raise StackFailed(f"not ready after {_READY_S:.0f} s ({error})\n{log_tail(folder)}") from error
        await asyncio.sleep(_LOOK_EVERY_S)


def log_tail(folder: Path) -> str:
    """The end of what the processes in `folder` have said."""
    try:
        text = (folder / _LOG).read_bytes()[-_LOG_TAIL_BYTES:]
    except OSError:
        return ""
    return text.decode("utf-8", "replace")
