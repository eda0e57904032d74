"""The supervisor keeps children alive, drains them when asked, and leaves none behind."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tollway.runtime.supervisor import ChildSpec, ChildState, ChildStatus, Supervisor

_FOREVER = ("sleep", "300")
# Says "up" when its trap is set; on SIGTERM writes "drained" and ends well.
_DRAINS = 'trap \'echo drained >> "$0"; exit 0\' TERM; echo up >> "$0"; while :; do sleep 0.02; done'
_STUBBORN = 'trap "" TERM; echo up >> "$0"; while :; do sleep 0.02; done'
_OWNER = """
import asyncio, sys
from tollway.runtime.supervisor import ChildSpec, Supervisor

async def main():
    supervisor = Supervisor([ChildSpec("one", ("sleep", "300"))])
    running = asyncio.create_task(supervisor.run())
    while not supervisor.status()[0].pid:
        await asyncio.sleep(0.01)
    print(supervisor.status()[0].pid, flush=True)
    await running

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def _running(supervisor: Supervisor) -> AsyncIterator["asyncio.Task[int]"]:
    task = asyncio.create_task(supervisor.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def _sh(name: str, script: str, argument: Path) -> ChildSpec:
    return ChildSpec(name, ("sh", "-c", script, str(argument)))


async def _until(fact: Callable[[], object], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


def _status(supervisor: Supervisor, name: str) -> ChildStatus:
    return next(status for status in supervisor.status() if status.name == name)


def _pid(supervisor: Supervisor, name: str) -> int:
    pid = _status(supervisor, name).pid
    assert pid is not None
    return pid


def _alive(pid: int) -> bool:
    """Whether the process lives; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


async def test_a_child_that_is_killed_is_started_again() -> None:
    """Each kill -9 is followed by a new process, and the counters tell of it."""
    supervisor = Supervisor([ChildSpec("one", _FOREVER), ChildSpec("two", _FOREVER)])
    async with _running(supervisor):
        await _until(lambda: all(status.pid for status in supervisor.status()))
        bystander = _pid(supervisor, "two")
        for restarts in (1, 2, 3):
            os.kill(_pid(supervisor, "one"), signal.SIGKILL)
            await _until(lambda: _status(supervisor, "one").restarts == restarts)  # noqa: B023
            await _until(lambda: _status(supervisor, "one").state is ChildState.RUNNING)
        assert _status(supervisor, "one").last_exit == -signal.SIGKILL
        assert _status(supervisor, "two") == ChildStatus("two", ChildState.RUNNING, bystander, 0, None)


@pytest.mark.parametrize("code", [0, 1, 2])
async def test_a_child_that_ends_by_itself_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """Whatever its exit code, it is tried again and again; a refused configuration is said loudly."""
    supervisor = Supervisor([_sh("one", f'echo up >> "$0"; exit {code}', tmp_path / "starts")])
    async with _running(supervisor):
        await _until(lambda: len(_lines(tmp_path / "starts")) >= 4)
        assert _status(supervisor, "one").last_exit == code
    assert ("refuses its configuration" in caplog.text) == (code == 2)


async def test_a_program_that_is_missing_is_tried_until_it_is_there(tmp_path: Path) -> None:
    """A child whose program cannot be found does not end the supervisor, and runs once it can be."""
    program = tmp_path / "program"
    supervisor = Supervisor([ChildSpec("one", (str(program),))])
    async with _running(supervisor):
        await _until(lambda: _status(supervisor, "one").restarts >= 1)
        program.symlink_to("/bin/cat")
        await _until(lambda: _status(supervisor, "one").restarts >= 2)
        program.unlink()


async def test_stop_drains_every_child_and_run_returns_zero(tmp_path: Path) -> None:
    """Each child gets SIGTERM and its time; a second stop does nothing."""
    files = [tmp_path / "a", tmp_path / "b"]
    supervisor = Supervisor([_sh(file.name, _DRAINS, file) for file in files])
    async with _running(supervisor) as run:
        await _until(lambda: all(_lines(file) == ["up"] for file in files))
        pids = [status.pid for status in supervisor.status()]
        await supervisor.stop()
        assert await run == 0
        await supervisor.stop()
    assert [_lines(file) for file in files] == [["up", "drained"]] * 2
    assert not any(pid and _alive(pid) for pid in pids)
    assert {status.state for status in supervisor.status()} == {ChildState.GONE}
    with pytest.raises(RuntimeError):
        supervisor.add(ChildSpec("late", _FOREVER))


async def test_a_child_that_will_not_drain_is_killed_after_its_grace(tmp_path: Path) -> None:
    """A child deaf to SIGTERM is killed when its time is over, and run says so by returning 1."""
    supervisor = Supervisor([_sh("deaf", _STUBBORN, tmp_path / "deaf")], grace_s=0.2)
    async with _running(supervisor) as run:
        await _until(lambda: _lines(tmp_path / "deaf") == ["up"])
        pid = _pid(supervisor, "deaf")
        supervisor.request_stop()
        assert await run == 1
    assert not _alive(pid)


async def test_a_group_scales_up_and_down_while_it_runs(tmp_path: Path) -> None:
    """A child may be added and removed at run time; a removed one drains, stays gone and frees its name."""
    supervisor = Supervisor([ChildSpec("one", _FOREVER)])
    async with _running(supervisor) as run:
        supervisor.add(_sh("two", _DRAINS, tmp_path / "two"))
        await _until(lambda: _lines(tmp_path / "two") == ["up"])
        with pytest.raises(ValueError, match="two"):
            supervisor.add(ChildSpec("two", _FOREVER))
        await supervisor.remove("two")
        assert _lines(tmp_path / "two") == ["up", "drained"]
        assert [status.name for status in supervisor.status()] == ["one"]
        with pytest.raises(KeyError):
            await supervisor.remove("two")
        supervisor.add(ChildSpec("two", _FOREVER))
        await _until(lambda: _status(supervisor, "two").pid)
        await supervisor.stop()
        assert await run == 0


async def test_a_stop_during_a_pause_does_not_wait_for_it() -> None:
    """A child between two starts is not started again once the stop was asked for."""
    supervisor = Supervisor([ChildSpec("one", ("false",))])
    async with _running(supervisor) as run:
        await _until(lambda: _status(supervisor, "one").restarts >= 3)
        await supervisor.stop()
        assert await run == 0
        assert _status(supervisor, "one").pid is None


async def test_cancelling_run_leaves_no_process() -> None:
    """A cancelled supervisor kills its children at once."""
    supervisor = Supervisor([ChildSpec("one", _FOREVER)])
    async with _running(supervisor):
        await _until(lambda: _status(supervisor, "one").pid)
        pid = _pid(supervisor, "one")
    assert not _alive(pid)


async def test_children_die_with_a_supervisor_that_was_killed() -> None:
    """kill -9 of the supervisor's process ends its children too."""
    with subprocess.Popen([sys.executable, "-c", _OWNER], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        pid = int(await asyncio.to_thread(owner.stdout.readline))
        assert _alive(pid)
        owner.kill()
    await _until(lambda: not _alive(pid))


async def test_what_a_dead_child_left_in_its_group_is_killed(tmp_path: Path) -> None:
    """A helper process of a child does not outlive it, and Ctrl-C in our terminal reaches neither."""
    script = 'sleep 300 & echo $! >> "$0"; wait'
    supervisor = Supervisor([_sh("one", script, tmp_path / "helpers")])
    async with _running(supervisor):
        await _until(lambda: _lines(tmp_path / "helpers"))
        helper, child = int(_lines(tmp_path / "helpers")[0]), _pid(supervisor, "one")
        assert os.getsid(helper) == os.getsid(child) == child
        os.kill(child, signal.SIGKILL)
        await _until(lambda: not _alive(helper))
