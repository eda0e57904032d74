"""A run that kills every process that takes it."""

from checks import faults, lost_workers
from stack import Start


async def test_poison_dies_alone(up: Start) -> None:
    """It is dead after three lost workers, the last of them a process of its own; every neighbour succeeds."""
    async with up(workers=1, latency_s=0.1) as stack:
        stem = stack.began.hex[:12]
        neighbours = [await stack.submit("patient", f"{stem}-{number}") for number in range(10)]
        poison = await stack.submit("kills_its_process", f"{stem}-poison")
        neighbours += [await stack.submit("patient", f"{stem}-late-{number}") for number in range(10)]
        await stack.until_rest()
        history = await stack.history()
    assert not faults(history)
    dead = history.runs[poison]
    assert (dead.row.state, dead.row.error_code, lost_workers(dead)) == ("dead", "poison", 3)
    assert all(history.runs[run_id].row.state == "succeeded" for run_id in neighbours)
    assert all(lost_workers(history.runs[run_id]) < 3 for run_id in neighbours)
