"""The line before a route: in order within a flow, by weight between flows, no credit for having been away."""

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tollway.llm.capacity.costs import Flow
from tollway.llm.capacity.lanes import FairQueue

A, B, C = (Flow("standard", tenant, "agent") for tenant in "abc")
URGENT, X = Flow("interactive", "a", "agent"), Flow("unnamed", "a", "agent")


def drain(queue: FairQueue[str], calls: int) -> str:
    return "".join(queue.pop() for _ in range(calls))


def test_flows_take_turns_whatever_their_backlog() -> None:
    """A flow with a hundred calls and one with three are served alternately."""
    queue: FairQueue[str] = FairQueue()
    for _ in range(100):
        queue.push(A, "a", 1.0)
    for _ in range(3):
        queue.push(B, "b", 1.0)
    assert Counter(drain(queue, 6)) == {"a": 3, "b": 3}
    assert len(queue) == 97


def test_service_goes_by_weight_and_cost() -> None:
    """Twice the weight is twice the cost served; calls of three times the cost are served a third as often."""
    queue: FairQueue[str] = FairQueue()
    queue.weigh({A.key: 2.0, B.key: 1.0, C.key: 1.0})
    for _ in range(200):
        queue.push(A, "a", 1.0)
        queue.push(B, "b", 1.0)
        queue.push(C, "c", 3.0)
    served = Counter(drain(queue, 100))
    assert served["a"] == pytest.approx(60, abs=2)
    assert served["b"] == pytest.approx(30, abs=2)
    assert served["c"] == pytest.approx(10, abs=2)


def test_a_newcomer_has_no_credit() -> None:
    """Who comes late shares from then on, and does not make up for the time before."""
    queue: FairQueue[str] = FairQueue()
    for _ in range(100):
        queue.push(A, "a", 1.0)
    drain(queue, 50)
    for _ in range(50):
        queue.push(B, "b", 1.0)
    assert Counter(drain(queue, 10))["b"] == 5


def test_one_call_at_a_time_gains_nothing() -> None:
    """A flow that never has two calls waiting is served as often as one with many, and no more."""
    queue: FairQueue[str] = FairQueue()
    for _ in range(100):
        queue.push(A, "a", 1.0)
    queue.push(B, "b", 1.0)
    served = Counter[str]()
    for _ in range(60):
        call = queue.pop()
        served[call] += 1
        if call == "b":
            queue.push(B, "b", 1.0)
    assert served["b"] == pytest.approx(30, abs=1)


def test_a_large_head_is_not_overtaken_for_ever() -> None:
    """However many small calls of others come, a large one is next as soon as its flow's turn has come."""
    queue: FairQueue[str] = FairQueue()
    queue.push(A, "L", 50.0)
    for _ in range(10):
        queue.push(B, "b", 1.0)
    served = ""
    for _ in range(5):
        served += queue.pop()
        queue.push(C, "c", 1.0)
    assert "L" in served[:2]


def test_urgent_work_waits_for_no_more_than_the_call_at_the_head() -> None:
    """P6: before fifty flows of batch work that wait, an interactive call is next, and so is the one after it."""
    queue: FairQueue[str] = FairQueue({"interactive": 0.3, "standard": 0.2, "batch": 0.1})
    for number in range(50):
        for _ in range(3):
            queue.push(Flow("batch", f"t{number}", "agent"), "b", 1.0)
    drain(queue, 20)
    queue.push(URGENT, "i", 1.0)
    assert drain(queue, 2).count("i") == 1
    queue.push(URGENT, "i", 1.0)
    assert queue.pop() == "i"


def test_lanes_are_served_by_what_they_were_granted() -> None:
    """P7: with more interactive work than the route takes, batch work goes on at the rate it was granted."""
    queue: FairQueue[str] = FairQueue({"interactive": 0.3, "batch": 0.1})
    batch = Flow("batch", "a", "agent")
    queue.weigh({URGENT.key: 0.9, batch.key: 0.1})
    for _ in range(200):
        queue.push(URGENT, "i", 1.0)
        queue.push(batch, "b", 1.0)
    assert Counter(drain(queue, 100))["b"] == pytest.approx(10, abs=1)


@given(st.lists(st.tuples(st.sampled_from([A, B, C, URGENT, X]), st.floats(0.1, 5), st.booleans()), max_size=60))
@example([(A, 1.0, False), (A, 1.0, False), (B, 1.0, True), (B, 1.0, False)])
def test_nobody_is_lost_or_served_twice(story: list[tuple[Flow, float, bool]]) -> None:
    """Whoever is pushed is popped once or discarded once; what is upcoming is what then comes."""
    queue: FairQueue[int] = FairQueue()
    tickets: dict[int, tuple[Flow, int]] = {}
    gone: list[int] = []
    for number, (flow, size, leave) in enumerate(story):
        tickets[number] = (flow, queue.push(flow, number, size))
        if leave and number % 3 == 0:
            assert queue.discard(*tickets[number])
            assert not queue.discard(*tickets[number])
            gone.append(number)
        elif leave:
            foreseen = list(queue.upcoming(1))
            gone.append(queue.pop())
            assert foreseen == gone[-1:]
    foreseen = list(queue.upcoming(100))
    left = [queue.pop() for _ in range(len(queue))]
    assert foreseen == left
    assert sorted(gone + left) == list(range(len(story)))
    assert queue.head() is None
