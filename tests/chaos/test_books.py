"""The comparison of ledgers on forged ones: what a broken build would leave behind is seen."""

import pytest
from books import Booked, Charged, money_faults

Entries = list[tuple[str, str, int]]


def faults(ours: Entries, **theirs: int) -> list[str]:
    """The faults of entries (call, kind, nano) against charges by call."""
    return money_faults([Booked(*each) for each in ours], [Charged(*each) for each in theirs.items()])


def test_ledgers_that_agree_have_no_faults() -> None:
    """P10: settled at the charge, adjusted up to it, unknown at more, released, or never begun."""
    ours = [
        ("a", "settle", 10), ("b", "settle", 8), ("b", "adjust", 2), ("c", "unknown", 50), ("d", "release", 0),
        ("e", "unknown", 50), ("f", "release", 0), ("g", "settle", 0), ("h", "saved", 0),
    ]  # fmt: skip
    assert faults(ours, a=10, b=10, c=7, d=0, g=0, i=0) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ([], {"a": 10}, "not in the ledger"),
        ([("a", "release", 0)], {"a": 10}, "not in the ledger"),
        ([("a", "settle", 9)], {"a": 10}, "another sum"),
        ([("a", "settle", 10)], {}, "another sum"),
        ([("a", "settle", 10), ("a", "settle", 10)], {"a": 10}, "more than one settle"),
        ([("a", "settle", 10), ("a", "unknown", 20)], {"a": 10}, "settled, and more"),
        ([("a", "unknown", 9)], {"a": 10}, "too little"),
        ([("a", "unknown", 20), ("a", "adjust", 1)], {"a": 10}, "or more than that"),
        ([("a", "adjust", 10)], {"a": 10}, "never settled"),
        ([("a", "release", 3)], {}, "costs nothing"),
    ],
)
def test_ledgers_that_disagree_are_told(ours: Entries, theirs: dict[str, int], said: str) -> None:
    """P10: a charge that is lost, doubled, settled at another sum, or made up, is a fault that says so."""
    assert any(said in fault for fault in faults(ours, **theirs))


def test_a_call_that_came_twice_is_told() -> None:
    """P2: two rows of one call at the provider are a fault, whatever the ledger says."""
    rows = [Charged("a", 10), Charged("a", 10)]
    assert any("twice" in fault for fault in money_faults([Booked("a", "settle", 10)], rows))
