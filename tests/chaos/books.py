"""What must hold between our ledger and the provider's, whatever befell the processes (P4, P10). Pure.

a call the provider charged   one settle, with an adjust for what exceeds its reservation, of that sum; or one unknown
                              of at least it
a call it did not charge      a release, an unknown, a settle of nothing, or no entry at all
a settle, an adjust           only of a call that the provider has
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Booked:
    """One entry of our ledger, in nano-dollars."""

    call_id: str
    kind: str
    nano: int


@dataclass(frozen=True, slots=True)
class Charged:
    """One row of the provider's, in nano-dollars."""

    call_id: str
    nano: int


def money_faults(ours: Iterable[Booked], theirs: Iterable[Charged]) -> list[str]:
    """Every way in which the two ledgers disagree, once nothing is under way."""
    entries: dict[str, dict[str, int]] = defaultdict(dict)
    found = []
    for entry in ours:
        if entry.kind in entries[entry.call_id]:
            found.append(f"call {entry.call_id} has more than one {entry.kind}")
        entries[entry.call_id][entry.kind] = entry.nano
    charged: dict[str, int] = {}
    for row in theirs:
        if row.call_id in charged:
            found.append(f"call {row.call_id} came to the provider twice")
        charged[row.call_id] = row.nano
    for call_id in charged.keys() | entries.keys():
        found += _call_faults(call_id, entries.get(call_id, {}), charged.get(call_id))
    return [*found, *_sum_faults(entries, charged)]


def _call_faults(call_id: str, entries: dict[str, int], nano: int | None) -> Iterator[str]:
    told = f"call {call_id}, charged {nano}, has {entries}"
    kinds = entries.keys() - {"saved"}
    if "settle" in kinds:
        if kinds - {"adjust"} != {"settle"}:
            yield f"{told}: settled, and more"
        if nano is None or entries["settle"] + entries.get("adjust", 0) != nano:
            yield f"{told}: settled at another sum"
    elif "unknown" in kinds:
        if kinds != {"unknown"} or entries["unknown"] < (nano or 0):
            yield f"{told}: unknown at too little, or more than that"
    elif "adjust" in kinds:
        yield f"{told}: adjusted, and never settled"
    elif nano:
        yield f"{told}: charged, and not in the ledger"
    if entries.get("release", 0) or entries.get("saved", 0):
        yield f"{told}: what is released or saved costs nothing"


def _sum_faults(entries: dict[str, dict[str, int]], charged: dict[str, int]) -> Iterator[str]:
    """To the nano-dollar: our sum is the provider's, and what the unknown were taken for above their charge."""
    ours = sum(nano for kinds in entries.values() for nano in kinds.values())
    over = sum(kinds["unknown"] - charged.get(call_id, 0) for call_id, kinds in entries.items() if "unknown" in kinds)
    if ours != sum(charged.values()) + over:
        yield f"our ledger has {ours}, the provider's {sum(charged.values())}, the unknown {over} beyond their charge"
