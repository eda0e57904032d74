"""Where processes share cached answers: a seam of few verbs, and its tier in Postgres.

An answer may be lost at any time, and is never given after its time. A store knows nothing of what an answer is.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from tollway.record.database import Database

SWEEP_ROWS = 5_000
SHED_ROWS = 20_000
PASS_STATEMENTS_MAX = 20


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What is kept under `key` until `expires_at` (epoch seconds). `tenant` and `agent` say whose it is."""

    key: bytes
    tenant: str
    agent: str
    value: bytes
    expires_at: float


class Held(msgspec.Struct, frozen=True, gc=False):
    """What a store has under a key."""

    value: bytes
    expires_at: float


class AnswerStore(Protocol):
    """The shared tier. Every verb raises DatabaseUnavailable when the store is out of reach."""

    async def find(self, keys: Sequence[bytes]) -> dict[bytes, Held]:
        """Those of the keys that are there and within their time."""

    async def keep(self, answers: Sequence[Answer]) -> None:
        """Keep them, each in the place of an earlier one under its key."""

    async def sweep(self, bytes_max: int) -> int:
        """Drop what is over its time, then what ends soonest until `bytes_max` is kept; returns how many were dropped.

        A bounded piece of work: what is left over is for the next sweep.
        """


class PostgresAnswers:
    """The tier in Postgres. Its database need not wait for the disk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, keys: Sequence[bytes]) -> dict[bytes, Held]:
        """As AnswerStore."""
        rows = await self._database.rows("find_answers", list(set(keys)))
        return {key: Held(value, expires_at) for key, value, expires_at in rows}

    async def keep(self, answers: Sequence[Answer]) -> None:
        """As AnswerStore."""
        latest = {answer.key: answer for answer in answers}
        ordered = [latest[key] for key in sorted(latest)]  # in one order, lest two processes deadlock
        await self._database.rows(
            "keep_answers",
            [answer.key for answer in ordered],
            [answer.tenant for answer in ordered],
            [answer.agent for answer in ordered],
            [answer.value for answer in ordered],
            [answer.expires_at for answer in ordered],
        )

    async def sweep(self, bytes_max: int) -> int:
        """As AnswerStore. The table is weighed by its size on disk first, which asks for no look at its rows."""
        gone = await self._drop("sweep_answers", SWEEP_ROWS, SWEEP_ROWS)
        if await self._database.value("measure_answers") > bytes_max:
            gone += await self._drop("shed_answers", SHED_ROWS, bytes_max, SHED_ROWS)
        return gone

    async def _drop(self, name: str, full: int, *arguments: int) -> int:
        gone = 0
        for _ in range(PASS_STATEMENTS_MAX):
            dropped = int(await self._database.value(name, *arguments))
            gone += dropped
            if dropped < full:
                break
        return gone
