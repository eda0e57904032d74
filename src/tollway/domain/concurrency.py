"""Concurrency keys: which of the runs of one tenant with one key may run, and who must go for it.

One run at most holds a key, from the moment it may be claimed until it has ended; the others wait. `heir` is the twin
of the SQL function `pass_keys`, `ousted` decides for the runs whose policy is more than to wait for their turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

QUEUE = "queue"
CANCEL_NEWEST = "cancel_newest"
CANCEL_RUNNING = "cancel_running"
POLICIES = (QUEUE, CANCEL_NEWEST, CANCEL_RUNNING)

CODE = "concurrency_key"
"""The error code of runs that were cancelled for their key."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """A run that waits for its key; `place` is that in its line (µs), and ids rise with time."""

    id: UUID
    place: int
    policy: str


@dataclass(frozen=True, slots=True)
class Rival:
    """A live run of a key: it holds the key or waits for it. `asked`: somebody wants it cancelled already."""

    id: UUID
    policy: str
    holds: bool
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Ousted:
    """A run to be cancelled, and the run that is the reason."""

    id: UUID
    by: UUID
    message: str


def heir(waiting: Sequence[Waiter]) -> Waiter | None:
    """Who gets a key that nobody holds: the newest run that came to take it over, else the first in its line."""
    pressing = [run for run in waiting if run.policy == CANCEL_RUNNING]
    if pressing:
        return max(pressing, key=lambda run: run.id)
    return min(waiting, key=lambda run: (run.place, run.id), default=None)


def ousted(rivals: Sequence[Rival]) -> list[Ousted]:
    """Who of one key's runs is to be cancelled now.

    The newest run that said cancel_running wins, whether it waits or holds the key: the holder goes for it, and so do
    the others that said so. A waiting run that said cancel_newest goes for the holder. Deciding again changes nothing.
    """
    holder = next((run for run in rivals if run.holds), None)
    waiting = [run for run in rivals if not run.holds]
    winner = max((run for run in rivals if run.policy == CANCEL_RUNNING), key=lambda run: run.id, default=None)
    out = []
    for run in waiting:
        if run.policy == CANCEL_NEWEST and holder is not None:
            out.append(Ousted(run.id, holder.id, f"its concurrency key is taken by run {holder.id}"))
        elif run.policy == CANCEL_RUNNING and winner is not None and run.id != winner.id:
            out.append(Ousted(run.id, winner.id, superseded(winner.id)))
    if holder is not None and winner is not None and winner.id != holder.id and not holder.asked:
        out.append(Ousted(holder.id, winner.id, superseded(winner.id)))
    return out


def superseded(by: UUID | str) -> str:
    """Why a run ended for another one of its key."""
    return f"run {by} of the same concurrency key took its place"
