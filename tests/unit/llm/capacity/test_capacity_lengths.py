"""Learned lengths: the p90 of an agent's step, the bias of estimates, both fading, both bounded."""

import random

import pytest

from tollway.domain.llm import Caller
from tollway.llm.capacity.costs import Cost, front_charge
from tollway.llm.capacity.lengths import KNOWN_MAX, Lengths

WRITER = Caller("t", "standard", "writer", step="draft")
JUDGE = Caller("t", "standard", "writer", step="judge")


def test_unknown_steps_are_taken_at_their_bound() -> None:
    """Before three calls were seen the output is taken as max_tokens, the input as estimated."""
    lengths = Lengths()
    lengths.learn("r", WRITER, 100, 150, 10)
    assert lengths.cost("r", WRITER, 100, 500) == Cost(100, 500, 500)


def test_the_p90_of_a_step_is_learned_and_follows_a_change() -> None:
    """The expectation lies just above nine of ten lengths, is the step's own, and is another within some dozens."""
    lengths, draw = Lengths(), random.Random(1)
    for _ in range(300):
        lengths.learn("r", WRITER, 100, 100, draw.randint(1, 1000))
        lengths.learn("r", JUDGE, 100, 100, 5)
    assert 780 <= lengths.cost("r", WRITER, 100, 4000).output_tokens <= 1100
    assert lengths.cost("r", JUDGE, 100, 4000).output_tokens <= 6
    for _ in range(80):
        lengths.learn("r", WRITER, 100, 100, 50)
    assert lengths.cost("r", WRITER, 100, 4000).output_tokens <= 60
    assert lengths.cost("r", WRITER, 100, 20).output_tokens == 20


@pytest.mark.parametrize("bias", [0.6, 1.0, 1.7])
def test_the_bias_of_estimates_is_learned_by_route(bias: float) -> None:
    """What the vendor counts over what was estimated corrects the next estimates of that route and step."""
    lengths, draw = Lengths(), random.Random(2)
    for _ in range(100):
        estimated = draw.randint(50, 2000)
        lengths.learn("r", WRITER, estimated, round(estimated * bias), 10)
    assert lengths.cost("r", WRITER, 1000, 100).input_tokens == pytest.approx(1000 * bias, rel=0.02)
    assert lengths.cost("other", WRITER, 1000, 100).input_tokens == 1000


def test_what_is_known_is_bounded() -> None:
    """The least recently used is forgotten."""
    lengths = Lengths()
    for number in range(KNOWN_MAX + 10):
        for _ in range(3):
            lengths.learn("r", Caller("t", "l", f"agent-{number}"), 10, 20, 5)
    assert lengths.cost("r", Caller("t", "l", "agent-0"), 10, 100) == Cost(10, 100, 100)
    assert lengths.cost("r", Caller("t", "l", f"agent-{KNOWN_MAX}"), 10, 100).input_tokens == 20


def test_what_is_charged_at_the_front_is_what_the_vendor_counts() -> None:
    """Where max_tokens counts, all of it; where output counts as made, what is expected, never above the bound; where
    it does not count, nothing."""
    cost = Cost(100, 30, 500)
    assert front_charge(cost, "max_tokens") == (1, 600, 100, 500)
    assert front_charge(cost, "actual") == (1, 130, 100, 30)
    assert front_charge(cost, "input") == (1, 100, 100, 0)
    assert front_charge(Cost(100, 900, 500), "actual") == (1, 600, 100, 500)
