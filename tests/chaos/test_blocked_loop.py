"""Agents that block the event loop."""

import json
from typing import Any

from checks import lost_workers
from stack import Start


async def test_a_blocked_loop_is_named_and_given_up_when_it_lasts(up: Start) -> None:
    """Blocked for 3 s it keeps its lease, and the log names agent and stack; past loop_block_max_s it is given up."""
    async with up(workers=1, heartbeat_s=0.5, lease_ttl_s=2, loop_block_max_s=5) as stack:
        brief = await stack.submit("blocks_3_s", f"{stack.began.hex[:12]}-brief")
        await stack.until_rest()
        long = await stack.submit("blocks_once", f"{stack.began.hex[:12]}-long")
        history = await stack.history_without_faults([brief, long])
        said = [json.loads(line) for line in stack.log().splitlines() if line.startswith("{")]
    assert lost_workers(history.runs[brief]) == 0
    assert history.runs[brief].output == 1
    assert lost_workers(history.runs[long]) == 1
    assert history.runs[long].output == 2
    for event, agent in (
        ("loop.blocked", "blocks_3_s"),
        ("loop.blocked", "blocks_once"),
        ("loop.given_up", "blocks_once"),
    ):
        assert _named(said, event, agent), f"no {event} of {agent}"


def _named(said: list[dict[str, Any]], event: str, agent: str) -> bool:
    return any(
        line.get("event") == event
        and agent in line["task"]
        and "time.sleep" in line["stack"]
        and agent in line["stack"]
        for line in said
    )
