"""What the calls of a run hold in budgets, from before their intents until their outcomes are on record."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from tollway.domain.errors import DatabaseUnavailable
from tollway.domain.llm import Caller
from tollway.record.claims import Claim
from tollway.record.writes import Entry, Move, RunWrite
from tollway.spend.budgets import Budgets, Hold, Standing

BUSY_PATIENCE_S = 2.5
"""How long a call waits for money that others hold and may not need; then its run parks."""

_AWAY_S = 0.25


class RunHolds:
    """The holds of one claim. Each ends once: with an outcome on record, without an intent on record, or given up."""

    __slots__ = ("_budgets", "_caller", "_claim", "_held", "_task_type")

    def __init__(self, budgets: Budgets, claim: Claim, task_type: str) -> None:
        self._budgets = budgets
        self._claim = claim
        self._task_type = task_type
        self._caller: Caller | None = None
        self._held: dict[UUID, Hold] = {}

    async def look(self) -> Standing:
        """The rungs on which the next step of the run stands."""
        return await self._budgets.look(self._payer())

    async def reserve(self, nano: int) -> Hold:
        """Hold the worst case of a call; waits out an outage of the database, as intents do. Raises LlmError."""
        while True:
            try:
                return await self._budgets.reserve(self._payer(), nano, BUSY_PATIENCE_S)
            except DatabaseUnavailable:
                await asyncio.sleep(_AWAY_S)

    def drop(self, hold: Hold) -> None:
        """Its call was never intended."""
        self._budgets.settle(hold, 0)

    def intended(self, write: RunWrite, call_id: UUID, hold: Hold) -> None:
        """The call's intent is in this write."""
        if hold.told is not None:
            self._held[call_id] = hold
            write.moves.append(Move(call_id, hold.told, 0, hold.nano))

    def ended(self, write: RunWrite, call_id: UUID, entries: Sequence[Entry] = ()) -> None:
        """The call's outcome is in this write, with what it cost."""
        hold = self._held.get(call_id)
        if hold is not None and hold.told is not None:
            spent_nano = sum(entry.nano for entry in entries if entry.call_id == call_id)
            write.moves.append(Move(call_id, hold.told, spent_nano, -hold.nano))

    def landed(self, write: RunWrite | None) -> None:
        """The write is on record."""
        if write is None or not write.moves:
            return
        for move in write.moves:
            if move.reserved_nano < 0:
                hold = self._held.pop(move.call_id, None)
                if hold is not None:
                    self._budgets.settle(hold, move.spent_nano)

    def let_go(self, *refused: RunWrite | None) -> None:
        """Nothing more is written: what is intended on record counts as spent, what these writes intended never was."""
        never = {
            move.call_id for write in refused if write is not None for move in write.moves if move.reserved_nano > 0
        }
        held, self._held = self._held, {}
        for call_id, hold in held.items():
            if call_id in never:
                self._budgets.settle(hold, 0)
            else:
                self._budgets.strand(hold)

    def _payer(self) -> Caller:
        if self._caller is None:
            claim = self._claim
            self._caller = Caller(claim.tenant, claim.lane, claim.agent, task_type=self._task_type, key_id=claim.key_id)
        return self._caller
