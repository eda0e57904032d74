"""The bench of money: its parts add up, whatever the noise of one of them."""

import pytest

from tollway.simulator.bench.money_rig import MoneyCost


def test_the_parts_add_up() -> None:
    """What writes cost more with money than without, reserving, and counting in; a part below nothing is noise."""
    cost = MoneyCost(with_money_us=240.0, without_us=225.0, rollup_us=20.0, guard_us=10.0)
    assert cost.writes_us == pytest.approx(15.0)
    assert cost.whole_us == pytest.approx(45.0)
    assert MoneyCost(10.0, 12.0, 1.0, 1.0).writes_us == pytest.approx(-2.0)
