"""The crash explorer on a dozen fixed seeds; `make explore SEEDS=500` goes further."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from explorer.plan import API, KEEPER, plan

from tollway.failpoints import NAMES

HERE = Path(__file__).parent
SEEDS = ("--first", "101", "--seeds", "12")


@pytest.mark.slow
def test_a_dozen_seeds_hold() -> None:
    """P1, P2, P3: killed at failpoints and between, stopped and cut off, the runs of 12 seeds end as they should."""
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "explorer", *SEEDS, "--jobs", "2"]
    found = subprocess.run(command, env=env, cwd=HERE, capture_output=True, text=True, timeout=170, check=False)
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr[-5_000:]
    assert "12 explorations" in found.stdout


def test_a_seed_is_a_plan() -> None:
    """The same seed draws the same plan; other seeds draw others."""
    assert plan(7) == plan(7)
    assert len({repr(plan(seed)) for seed in range(200)}) == 200


def test_plans_reach_every_failpoint() -> None:
    """Five hundred seeds arm every failpoint there is, disturb every role, and crash PostgreSQL both ways."""
    plans = [plan(seed) for seed in range(1, 501)]
    armed = {life.partition("=")[0] for one in plans for lives in one.lives.values() for life in lives}
    assert armed == set(NAMES)
    came = {(one.what, one.role.partition("-")[0]) for each in plans for one in each.disturbances}
    assert came >= {("kill", API), ("kill", KEEPER), ("kill", "worker"), ("term", "worker"), ("stop", "worker")}
    assert came >= {("postmaster", ""), ("backend", "")}
