"""The demo's workload: its mix, and how often its messages repeat."""

from collections import Counter

import pytest

from tollway.simulator.customers import LANES, REPEATED, SENT_AGAIN, messages, repeated

TEXTS = [f"text {number}" for number in range(1000)]
TENANTS = ("a", "b", "c")


@pytest.mark.parametrize("seed", range(5))
def test_messages_repeat_as_often_as_those_of_real_customers(seed: int) -> None:
    """About 30 % came before from the same tenant, about 8 % just now from the same customer in the same lane."""
    work = messages(TEXTS, TENANTS, 1200, seed)
    assert repeated(work) / len(work) == pytest.approx(REPEATED, abs=0.05)
    again = sum(1 for at, one in enumerate(work) if one in work[max(0, at - 120) : at])
    assert again / len(work) == pytest.approx(SENT_AGAIN, abs=0.03)


def test_lanes_and_tenants_have_their_shares() -> None:
    """Lanes by their shares to the message, tenants in turn; the same seed makes the same work."""
    work = messages(TEXTS, TENANTS, 600)
    assert [Counter(one.lane for one in work)[lane] for lane in LANES] == [120, 180, 300]
    assert Counter(one.tenant for one in work) == dict.fromkeys(TENANTS, 200)
    assert work == messages(TEXTS, TENANTS, 600)
    assert work != messages(TEXTS, TENANTS, 600, seed=1)


def test_used_up_texts_come_again_as_other_messages() -> None:
    """Six texts make a hundred messages of which no more repeat than should; each keeps the row of its text."""
    work = messages(TEXTS[:6], TENANTS, 100)
    assert repeated(work) / len(work) == pytest.approx(REPEATED, abs=0.15)
    assert all(one.text.startswith(TEXTS[one.row]) for one in work)
    assert messages(TEXTS, TENANTS, 0) == []
