"""The benchmark's own behaviour where no stack comes up, and its readings of this machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tollway.simulator.accounting import snapshot, spent_between
from tollway.simulator.bench import machine
from tollway.simulator.bench.scenarios import SCENARIOS

COMMAND = [sys.executable, "-c", "from tollway.cli.bench import bench; bench()"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`tollway bench` with these arguments."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_a_program_that_does_not_come_up_is_exit_3(tmp_path: Path) -> None:
    """The end of its log is shown, and nothing is left behind."""
    program = tmp_path / "tollway"
    program.write_text("#!/bin/sh\necho no such luck\nexit 4\n")
    program.chmod(0o755)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = run("saturated", "--tollway", str(program), "--dir", str(scratch))
    assert done.returncode == 3
    assert "no such luck" in done.stderr
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["--clients", "0"], ["--tollway", "/no/such/program"], ["--texts", "/no/such.csv"]]
)
def test_wrong_usage_is_exit_2(arguments: list[str]) -> None:
    """An unknown scenario, a bad number, a missing program or file are said before anything starts."""
    assert run(*arguments).returncode == 2


def test_help_has_an_example() -> None:
    """The help names the scenarios and shows a command."""
    text = run("--help").stdout
    assert "tollway bench saturated" in text
    assert all(name in text for name in SCENARIOS)


def test_cpu_of_a_child_that_came_and_went_is_counted() -> None:
    """A process tree's spending includes a grandchild no snapshot ever saw."""
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    wait, act = "import subprocess, sys; input()", f"subprocess.run([sys.executable, '-c', {burn!r}])"
    script = f"{wait}; {act}; print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as root:
        assert root.stdin is not None
        assert root.stdout is not None
        before = snapshot(root.pid)
        root.stdin.write(b"\n")
        root.stdin.flush()
        root.stdout.readline()
        spent = spent_between(before, snapshot(root.pid))
        root.stdin.close()
    assert spent.total_s >= 0.28
    assert spent.missing == 0


def test_a_process_is_found_by_the_folder_it_names(tmp_path: Path) -> None:
    """A database server that left the tree still belongs to it by the folder in its command line."""
    with (
        subprocess.Popen(["sleep", "60"]) as root,
        subprocess.Popen(["tail", "-f", "/dev/null", str(tmp_path)]) as stray,
    ):
        try:
            deadline = time.monotonic() + 10
            while {pid for pid, _ in snapshot(root.pid, tmp_path).processes} != {root.pid, stray.pid}:
                assert time.monotonic() < deadline
        finally:
            root.kill()
            stray.kill()


def test_the_machine_is_read_and_left_clean(tmp_path: Path) -> None:
    """Calibration and disk give figures, and the probe file is gone."""
    found = machine.inspect(tmp_path)
    assert found.calibration_ms > 0
    assert found.fdatasync.count > 0
    assert found.cpus == len(os.sched_getaffinity(0))
    assert found.filesystem != "unknown"
    assert list(tmp_path.iterdir()) == []


def test_the_generator_ends_with_its_parent() -> None:
    """When stdin closes in mid-job, or the plan is answered by nobody, the generator's process does not linger."""
    plan = {"load": "runs", "port": 1, "api_key": "k", "agent": "a", "texts": ["x"], "clients": 1}
    done = subprocess.run(
        [sys.executable, "-m", "tollway.simulator.bench.generate"],
        input=json.dumps(plan).encode() + b"\n",
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode in (1, 70)
