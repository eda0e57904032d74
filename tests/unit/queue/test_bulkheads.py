"""No agent and no tenant takes all of a lane's slots (P6)."""

import math

from hypothesis import given
from hypothesis import strategies as st

from tollway.queue.bulkheads import Held

AGENTS, TENANTS = ("hangs", "well", "other"), ("a", "b")


def test_a_hanging_agent_leaves_a_fifth() -> None:
    """With 100 slots in reach one agent starts 80 and no more, and the others start what is left."""
    held = Held()
    assert held.agents_room("batch", AGENTS, 100, 0.8) == dict.fromkeys(AGENTS, 80)
    for _ in range(80):
        held.add("batch", "hangs", "a")
    assert held.agents_room("batch", AGENTS, 20, 0.8) == {"hangs": 0, "well": 20, "other": 20}
    assert held.tenants_room("batch", 20, 0.8) == {"a": 0}
    assert held.newcomer_room("batch", 20, 0.8) == 20
    assert held.agents_room("interactive", AGENTS, 10, 0.8)["hangs"] == 8
    held.free("batch", "hangs", "a")
    assert held.agents_room("batch", AGENTS, 21, 0.8)["hangs"] == 1


def test_one_slot_is_always_allowed() -> None:
    """In a reach of one slot, whoever comes first has it; a share of 1 bounds nothing."""
    held = Held()
    assert held.agents_room("batch", AGENTS, 1, 0.1)["hangs"] == 1
    assert held.newcomer_room("batch", 1, 0.1) == 1
    assert held.agents_room("batch", AGENTS, 7, 1.0)["hangs"] == 7


@given(
    st.lists(
        st.tuples(st.sampled_from(AGENTS), st.sampled_from(TENANTS), st.integers(1, 40), st.booleans()), max_size=40
    ),
    st.integers(1, 100),
    st.sampled_from([0.1, 0.5, 0.8, 1.0]),
)
def test_nobody_holds_more_than_a_share(moves: list[tuple[str, str, int, bool]], slots: int, share_max: float) -> None:
    """However runs come and go, no agent and no tenant holds more than its share of the slots, one at least."""
    held, runs = Held(), []
    most = max(1, math.ceil(share_max * slots - 1e-9))
    for agent, tenant, count, ends in moves:
        if ends:
            for gone in runs[:count]:
                held.free("batch", *gone)
            del runs[:count]
            continue
        room = slots - len(runs)
        of_tenant = held.tenants_room("batch", room, share_max).get(
            tenant, held.newcomer_room("batch", room, share_max)
        )
        start = min(count, of_tenant, held.agents_room("batch", AGENTS, room, share_max)[agent])
        runs += [(agent, tenant)] * start
        for _ in range(start):
            held.add("batch", agent, tenant)
        assert held.lanes["batch"] == len(runs) <= slots
        for at, names in ((0, AGENTS), (1, TENANTS)):
            assert all(sum(run[at] == name for run in runs) <= most for name in names)
