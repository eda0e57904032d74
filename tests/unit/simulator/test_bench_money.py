"""The bench of money: its parts add up, whatever the noise of one of them."""

import pytest

from tollway.simulator.bench.money_rig import MoneyCost


def test_the_parts_add_up() -> None:
    """What money adds to writes, reserving, and counting in; a part below nothing is noise."""
    assert MoneyCost(writes_us=15.0, rollup_us=20.0, alerts_us=2.0, guard_us=10.0).whole_us == pytest.approx(47.0)
    assert MoneyCost(-2.0, 1.0, 0.5, 0.5).whole_us == pytest.approx(0.0)
