"""The seam between a governed call and whoever accounts for it: a run's journal, or the ledger of the wire."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from tollway.domain.budgets import Stood
from tollway.domain.errors import LlmError
from tollway.llm.calls import CallResult, Plan


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a request is served; seconds.

    `timeout_s` bounds all of it, waiting and further routes included; `cache` allows a kept answer; `again` says that
    this repeats a request which failed before, so that it draws on the provider's retry budget.
    """

    timeout_s: float = float("inf")
    cache: bool = True
    again: bool = False


class Books(Protocol):
    """Where the money and the outcome of one request's calls are written."""

    async def intend(self, plan: Plan) -> UUID:
        """Reserve the worst case durably; returns the id of the call. Raises what forbids it (LlmError, Fenced)."""

    def settle(self, plan: Plan, call_id: UUID, result: CallResult) -> None:
        """The call came back whole. Raises LlmError `invalid_answer` for an answer its asker cannot use."""

    def fail(self, plan: Plan, call_id: UUID, error: LlmError | None) -> None:
        """The call failed; None: it was cut off by us, and may be billed."""

    def stand_on(self, stood: Sequence[Stood], *, refused: bool = False) -> Sequence[Stood]:
        """The request stands on these rungs; `refused`: so low that no call is made. Returns those new to the books."""

    async def hit(self, result: CallResult) -> None:
        """The answer came without a call: `result.cached` says how, `result.saved_nano` what it saved."""
