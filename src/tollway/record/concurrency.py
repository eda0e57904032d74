"""Concurrency keys in the record: what runs do to others of their key, and the mending of keys nobody passed on.

An accept, a gate of time and an end move a key in their own transaction. To cancel others for a newcomer takes one
more, right after: rows of the queue are locked before keys, never after them. Whoever dies between the two leaves it to
the keeper, and until then the newcomer just waits.
"""

from collections.abc import Sequence
from uuid import UUID

from tollway.domain.concurrency import QUEUE, Ousted, Rival, ousted
from tollway.domain.words import ActorKind
from tollway.record.cancel import Cancellation, oust_runs
from tollway.record.database import Database

Key = tuple[str, str]
"""A tenant and one of its concurrency keys."""

FIRST_KEY: Key = ("", "")
PAGE = 5_000
_TRIES = 4


class ConcurrencyKeys:
    """The verbs on keys beyond accept and end. All raise DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def settle(self, keys: Sequence[Key], actor: tuple[ActorKind, str]) -> Cancellation:
        """Cancel whoever must go for another run of these keys; `actor` is who brought that about."""
        ended: set[UUID] = set()
        asked: set[UUID] = set()
        lanes: set[str] = set()
        for _ in range(_TRIES):  # a run may move between queue and worker while it is looked at
            out = await self._ousted(keys)
            if not out:
                break
            done = await oust_runs(self._database, out, actor)
            ended |= done.ended
            asked |= done.asked
            lanes |= done.lanes
        return Cancellation(frozenset(ended), frozenset(asked), lanes=frozenset(lanes))

    async def pressing(self, after: Key = FIRST_KEY) -> list[Key]:
        """A page of the keys for which runs wait that may have others cancelled, or be cancelled for them."""
        rows = await self._database.rows("list_pressing_keys", *after, PAGE)
        return [(row["tenant"], row["key"]) for row in rows]

    async def mend(self, after: Key = FIRST_KEY) -> tuple[Key | None, frozenset[str]]:
        """Look through a page of keys and pass on those whose holder is gone.

        Returns after which key to go on, None at the end, and the lanes with news.
        """
        rows = await self._database.rows("look_through_keys", *after, PAGE)
        stale = [row for row in rows if row["stale"]]
        passed = []
        if stale:
            passed = await self._database.rows(
                "pass_keys", [row["tenant"] for row in stale], [row["key"] for row in stale]
            )
        last = (rows[-1]["tenant"], rows[-1]["key"]) if len(rows) == PAGE else None
        return last, frozenset(row["lane"] for row in passed)

    async def _ousted(self, keys: Sequence[Key]) -> list[Ousted]:
        once = dict.fromkeys(keys)
        rows = await self._database.rows("list_rivals", [tenant for tenant, _ in once], [key for _, key in once])
        rivals: dict[Key, list[Rival]] = {}
        for row in rows:
            rival = Rival(UUID(int=row["run_id"].int), row["policy"] or QUEUE, row["holds"], row["asked"])
            rivals.setdefault((row["tenant"], row["key"]), []).append(rival)
        return [gone for of_key in rivals.values() for gone in ousted(of_key)]
