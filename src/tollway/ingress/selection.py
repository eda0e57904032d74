"""What a bulk action acts on: exactly what was counted, or nothing.

Without `confirm` a filter is only counted. With it, and no more, the filter must mean that many now, and what it means
now is acted on. Whoever counts in a set that moves asks for a snapshot with the count and gives it back with the
confirmation: then what came after the count is left alone, and what has gone since is not missed.
"""

import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Any
from uuid import UUID

import msgspec

from tollway.domain.errors import Problem
from tollway.ingress.problems import invalid
from tollway.record.dead_letters import DeadFilter
from tollway.record.reads import RunFilter

BULK_MAX = 1_000_000
SNAPSHOT_MAX_S = 3600.0
"""How long a snapshot may be confirmed."""

_VIEW_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Choice:
    """A filter, with how to count what it means and how to list it, either now or of a snapshot."""

    wanted: RunFilter | DeadFilter
    count: Callable[[], Awaitable[tuple[int, str]]]
    ids: Callable[[str | None, int], Awaitable[list[UUID]]]


class Chosen(msgspec.Struct, frozen=True):
    """What is to be acted on: `count` as confirmed, `ids` what of it is there still."""

    count: int
    ids: list[UUID]


class Snapshot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A count, when it was made (epoch seconds), of which filter, and the database's view of that moment."""

    at: float
    count: int
    meant: str
    view: str


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Snapshot)


async def choose(
    choice: Choice, confirm: int | None, snapshot: bool | str | None, now: float
) -> Chosen | dict[str, Any]:
    """What to act on, or the answer to a question for the count. `now` is in epoch seconds.

    Raises Problem `confirm_mismatch`, `invalid_input`, and DatabaseUnavailable.
    """
    if confirm is None:
        if isinstance(snapshot, str):
            raise invalid("snapshot", "needs confirm: the count it was given with")
        count, view = await choice.count()
        told: dict[str, Any] = {"count": count}
        if snapshot:
            told["snapshot"] = write_snapshot(Snapshot(now, count, meaning(choice.wanted), view))
        return told
    if snapshot is True:
        raise invalid("snapshot", "true asks for one and goes without confirm; with confirm give back what it answered")
    seen = read_snapshot(snapshot, choice.wanted, now) if snapshot else None
    if seen is not None and seen.count != confirm:
        raise _mismatch(f"The snapshot was taken of {seen.count}, not {confirm}; confirm that count.", seen.count)
    ids = await choice.ids(None if seen is None else seen.view, BULK_MAX + 1)
    if len(ids) > BULK_MAX:
        raise invalid("filter", f"means more than {BULK_MAX} at once; narrow it, such as by created_before")
    if seen is None and len(ids) != confirm:
        detail = f"The filter means {len(ids)} now, not {confirm}; look again and confirm the new count."
        raise _mismatch(detail, len(ids))
    return Chosen(confirm, ids)


def write_snapshot(snapshot: Snapshot) -> str:
    """The snapshot as clients carry it."""
    return base64.urlsafe_b64encode(_encode(snapshot)).decode().rstrip("=")


def read_snapshot(text: str, wanted: RunFilter | DeadFilter, now: float) -> Snapshot:
    """The snapshot that a client gives back. Raises Problem `invalid_input`."""
    try:
        snapshot = _decoder.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, msgspec.DecodeError):
        raise _bad("is not one that a count gave out") from None
    if not _is_view(snapshot.view):
        raise _bad("is not one that a count gave out")
    if snapshot.meant != meaning(wanted):
        raise _bad("was taken of another filter")
    if not 0 <= now - snapshot.at + 60 <= SNAPSHOT_MAX_S + 60:
        raise _bad(f"is older than {SNAPSHOT_MAX_S:.0f} s")
    return snapshot


def meaning(wanted: RunFilter | DeadFilter) -> str:
    """What tells one filter from another, of runs or of dead letters, for one tenant or for all."""
    return sha256(type(wanted).__name__.encode() + _encode(wanted)).hexdigest()[:16]


def _is_view(text: str) -> bool:
    """Whether PostgreSQL takes it for a pg_snapshot: `least:next:in,progress`."""
    try:
        least, top, running = text.split(":")
        among = [int(number) for number in running.split(",")] if running else []
        low, high = int(least), int(top)
    except ValueError:
        return False
    rising = all(before < after for before, after in pairwise(among))
    bounded = all(low <= number < high for number in among)
    return (
        text.isascii()
        and text.replace(":", "").replace(",", "").isdigit()
        and 0 < low <= high <= _VIEW_MAX
        and rising
        and bounded
    )


def _bad(why: str) -> Problem:
    return invalid("snapshot", f"{why}; count again with snapshot: true, and confirm that count")


def _mismatch(detail: str, count: int) -> Problem:
    return Problem("confirm_mismatch", detail, fields={"count": count})
