"""The wire at an API process: keys of tenants, and the ledger of calls that belong to no run."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from tollway.domain.budgets import Stood
from tollway.domain.clock import Clock
from tollway.domain.errors import DatabaseUnavailable, LlmError, Problem
from tollway.domain.ids import IdMaker
from tollway.domain.llm import Caller, LlmRequest, Usage
from tollway.ingress.auth import Authenticator
from tollway.ingress.quotas import Quotas
from tollway.ingress.wire.desk import WireHead
from tollway.llm import estimate
from tollway.llm.accounts import Guest
from tollway.llm.calls import CallResult, Plan
from tollway.llm.providers.inbound import bad
from tollway.record.settings_sync import SettingsSync
from tollway.record.wire_calls import WireCall, WireCalls, WireEntry, WireHit
from tollway.record.writes import Saving
from tollway.spend.budgets import NO_BUDGETS, NOTHING_HELD, Budgets, Hold

TASK_TYPE_CHARS_MAX = 64
BUSY_PATIENCE_S = 2.5
"""How long a call waits for money that others hold and may not need."""


@dataclass(frozen=True, slots=True)
class WireLedger:
    """What writes the money of calls: `process` tells this process' incarnation.

    `quotas` and `budgets` may forbid them.
    """

    calls: WireCalls
    ids: IdMaker
    clock: Clock
    process: Callable[[], int]
    quotas: Quotas | None = None
    budgets: Budgets = NO_BUDGETS

    def moment(self) -> datetime:
        """Now, as the database sees it."""
        return datetime.fromtimestamp(self.clock.now(), UTC)


class LedgerAccount:
    """Implements `Account` for a tenant's key."""

    __slots__ = ("_caller", "_held", "_hold", "_ledger", "_request", "_so_far", "call_id")

    def __init__(self, ledger: WireLedger, caller: Caller, request: LlmRequest) -> None:
        self._ledger = ledger
        self._caller = caller
        self._request = request
        self._held = 0
        self._hold = NOTHING_HELD
        self._so_far: Callable[[], CallResult | None] | None = None
        self.call_id = ""

    async def recorded(self) -> CallResult | None:
        """Nothing is kept of a call without a run; here it begins, if its tenant's quota allows it. Raises Problem."""
        self._begin()
        return None

    def streams(self, so_far: Callable[[], CallResult | None]) -> None:
        """Whoever leaves a stream early pays for what came: vendors stop with their client."""
        self._so_far = so_far

    async def stand_by(self, error: LlmError) -> None:
        """A client is told when to come again."""
        raise error

    def gave_up(self) -> None:
        """Each of its calls has its entry already."""
        self._let_go()

    async def intend(self, plan: Plan) -> UUID:
        """Reserve the worst case. Raises LlmError `budget_exhausted`, DatabaseUnavailable."""
        ledger, caller = self._ledger, self._caller
        hold = self._hold = await ledger.budgets.reserve(caller, plan.reserve_nano, BUSY_PATIENCE_S)
        process = ledger.process()
        if not process or (hold.accounts and process != hold.process):
            # taken for dead, and not registered anew yet: nobody would answer for the reservation
            ledger.budgets.settle(hold, 0)
            raise DatabaseUnavailable("this process is being registered anew")
        call_id = ledger.ids.new()
        self.call_id = str(call_id)
        opening = ledger.calls.open(
            WireCall(
                call_id,
                process,
                caller.tenant,
                caller.agent,
                caller.lane,
                plan.tier,
                plan.route,
                plan.provider,
                plan.model,
                plan.price.version,
                plan.reserve_nano,
                ledger.moment(),
                caller.task_type or None,
                plan.asked,
                hold.told,
            )
        )
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(lambda _: self._end(call_id, "release", 0))
            raise
        except Exception:
            self._end(call_id, "release", 0)  # it may have been written all the same
            raise
        return call_id

    def settle(self, plan: Plan, call_id: UUID, result: CallResult) -> None:
        """The call's price."""
        self._let_go()
        usage = result.completion.usage
        saving = Saving(prompt_nano=result.saved_prompt_nano or None, shift_nano=result.saved_shift_nano or None)
        self._close(WireEntry(call_id, "settle", result.cost_nano, self._ledger.moment(), usage, saving))

    def fail(self, plan: Plan, call_id: UUID, error: LlmError | None) -> None:
        """What a call that failed may have cost: its charge if it is known, nothing if it surely was not billed."""
        if self._so_far is not None:  # a stream that has begun is not served again
            self._let_go()
        came = self._so_far() if error is None and self._so_far is not None else None
        if came is not None:
            self.settle(plan, call_id, came)
        elif error is None or (error.billed and error.cost_nano is None):
            self._end(call_id, "unknown", None)
        elif error.cost_nano is None:
            self._end(call_id, "release", 0)
        else:
            usage = error.usage or Usage()
            self._close(WireEntry(call_id, "settle", error.cost_nano, self._ledger.moment(), usage))

    def stand_on(self, stood: Sequence[Stood], *, refused: bool = False) -> Sequence[Stood]:
        """A client is told by its answer."""
        return stood

    async def hit(self, result: CallResult) -> None:
        """An answer that cost nothing: what it saved is on record."""
        self._let_go()
        ledger, caller = self._ledger, self._caller
        ledger.calls.hit(
            WireHit(
                ledger.ids.new(),
                caller.tenant,
                caller.agent,
                caller.lane,
                result.tier or None,
                self._request.tier,
                caller.task_type or None,
                result.route,
                result.model,
                result.cached,
                result.saved_nano,
                ledger.moment(),
            )
        )

    def _begin(self) -> None:
        """Hold what the call may use: until it ends, others of its tenant are judged as if it were used."""
        if self._ledger.quotas is not None and not self._held:
            self._held = self._ledger.quotas.begin_call(self._caller.tenant, self._worst_tokens)

    def _worst_tokens(self) -> int:
        try:
            return estimate.input_tokens(self._request) + self._request.max_tokens
        except (AttributeError, TypeError):  # messages in no form at all, as its governor is about to say
            return self._request.max_tokens

    def _let_go(self) -> None:
        held, self._held = self._held, 0
        if held and self._ledger.quotas is not None:
            self._ledger.quotas.tokens.release(self._caller.tenant, held)

    def _end(self, call_id: UUID, kind: str, nano: int | None) -> None:
        self._close(WireEntry(call_id, kind, nano, self._ledger.moment()))

    def _close(self, entry: WireEntry) -> None:
        """Write the entry; what it leaves of the reservation may be reserved again once that is durable."""
        closing, budgets, hold = self._ledger.calls.close(entry), self._ledger.budgets, self._hold
        if hold.accounts:
            spent_nano = hold.nano if entry.nano is None else entry.nano
            closing.add_done_callback(lambda written: _settle(budgets, hold, spent_nano, written))


def _settle(budgets: Budgets, hold: Hold, spent_nano: int, written: "asyncio.Future[bool]") -> None:
    if written.cancelled() or written.exception() is not None:
        budgets.strand(hold)
    else:
        budgets.settle(hold, spent_nano)


class KeyDesk:
    """Implements `Desk`: API keys with the scope `submit`, as every route of the API knows them."""

    def __init__(
        self, authenticator: Authenticator, sync: SettingsSync, ledger: WireLedger, lanes: tuple[str, ...]
    ) -> None:
        self._authenticator = authenticator
        self._sync = sync
        self._ledger = ledger
        self._lanes = {lane.encode(): lane for lane in lanes}
        self._lane = "interactive" if "interactive" in lanes else lanes[0]

    def identify(self, head: WireHead) -> Guest:
        """Who asks, and for which lane. Raises Problem."""
        visitor = self._authenticator.identify(head.credential, head.tenant)
        visitor.require("submit")
        tenant = visitor.home
        record = self._sync.snapshot.tenants.get(tenant)
        if record is not None and record.paused:
            raise Problem("forbidden", f"Tenant {tenant} is paused; an admin key resumes it.")
        lane = self._lane
        if head.lane is not None:
            lane = self._lanes.get(head.lane, "")
            if not lane:
                raise bad("x-tollway-lane", f"must be one of {', '.join(self._lanes.values())}")
        weight = 1.0 if record is None else record.weight
        caller = Caller(tenant, lane, visitor.key.id, task_type=task_type(head), weight=weight, key_id=visitor.key.id)
        return Guest(caller, lambda request: LedgerAccount(self._ledger, caller, request))


def task_type(head: WireHead) -> str:
    """The header's task type; empty without. Raises Problem."""
    if head.task_type is None:
        return ""
    text = head.task_type.decode("latin-1").strip()
    if len(text) > TASK_TYPE_CHARS_MAX or not text.isprintable():
        raise bad("x-tollway-task-type", f"must be at most {TASK_TYPE_CHARS_MAX} printable characters")
    return text
