"""The money of a task whose cost is declared: reserved with its intent, settled with its outcome, as that of a call.

done, or failed once the function had begun ─▶ settle      cut meanwhile ─▶ unknown, at the whole cost
failed or cut before it began               ─▶ release     given again   ─▶ saved
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from tollway.domain import money
from tollway.domain.llm import Usage
from tollway.record.writes import NO_SAVING, NOTHING_RESERVED, Entry, Reservation, Saving, StepOutcome
from tollway.runtime.journal import RunJournal
from tollway.runtime.journal_steps import Step

DECLARED = "declared"
"""The price version of a cost that the agent's code declares."""

_COST_MAX_USD = 1_000_000
_NOTHING = Usage()


def declared_nano(cost_usd: float | Decimal) -> int:
    """A declared cost in nano-dollars. Raises ValueError for what is no amount of money from 0 to a million dollars."""
    if isinstance(cost_usd, int | float | Decimal) and not isinstance(cost_usd, bool):
        amount = Decimal(cost_usd)
        if amount.is_finite() and 0 <= amount <= _COST_MAX_USD:
            return money.nano(cost_usd)
    raise ValueError(f"cost_usd must be a number of dollars from 0 to {_COST_MAX_USD}, not {cost_usd!r}")


class TaskBooks:
    """One execution of a task in the journal, with its money; without a declared cost it has none.

    `intend`, then the function after `begins`, then `end`.
    """

    __slots__ = ("_began", "_call_id", "_cost_nano", "_journal", "_n", "_reserved", "_step")

    def __init__(self, journal: RunJournal, step: Step, call_id: UUID, cost_nano: int) -> None:
        self._journal = journal
        self._step = step
        self._call_id = call_id
        self._cost_nano = cost_nano
        self._reserved = NOTHING_RESERVED
        self._began = False
        self._n = 0

    async def intend(self, *, paid: bool = True) -> None:
        """Write the intent, and wait until it is durable; `paid` reserves the cost within the run's budget.

        Raises LlmError `budget_exhausted`, Fenced.
        """
        journal = self._journal
        if self._cost_nano:
            self._reserved = Reservation(self._cost_nano if paid else 0, price_version=DECLARED)
        await journal.purse.reserve(self._reserved.nano, firm=True)
        try:
            hold = await journal.holds.reserve(self._reserved.nano)
            try:
                self._n, durable = journal.intend(self._step, self._call_id, self._reserved, hold)
            except BaseException:
                journal.holds.drop(hold)
                raise
            await journal.begin(self._n, durable)
        except BaseException:
            journal.purse.give_back(self._reserved.nano, firm=True)
            raise

    def begins(self) -> None:
        """The function is called now: from here on it may have cost what it costs."""
        self._began = True

    def end(
        self,
        state: str,
        result: bytes | None,
        error: str | None,
        *,
        cached: str | None = None,
        cut: bool = False,
    ) -> None:
        """Write the outcome. `cached`: given again, and how; `cut`: by us, so that nobody knows what became of it.

        A run that is being handed back leaves an intent that was cut as it stands.
        """
        journal, cost_nano = self._journal, self._cost_nano
        journal.purse.give_back(self._reserved.nano, firm=True)
        if journal.fenced is not None or (cut and journal.hands_off):
            return
        kind, nano, saving = "settle", cost_nano, NO_SAVING
        if cached is not None:
            kind, nano, saving = "saved", 0, Saving(cached, cost_nano)
        elif not self._began:
            kind, nano = "release", 0
        elif cut:
            kind = "unknown"
        at = journal.moment()
        spent_nano = nano if kind == "settle" else 0
        outcome = StepOutcome(
            self._n, state, at, result, error, None, 0, _NOTHING, spent_nano,
            cached=cached is not None, saved_nano=saving.nano or 0,
        )  # fmt: skip
        journal.settle(outcome, self._entry(kind, nano, at, saving) if cost_nano else ())

    def _entry(self, kind: str, nano: int, at: datetime, saving: Saving) -> Sequence[Entry]:
        usage = Usage(estimated=True) if kind == "unknown" else _NOTHING
        return [Entry(self._call_id, kind, self._n, self._step.name, self._reserved, nano, usage, at, saving)]
