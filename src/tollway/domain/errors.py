"""Errors that carry their subject.

TollwayError
├── Problem              what a client did, as an RFC 9457 document
├── ConfigError          a setting that cannot be used: key, value, remedy
├── DatabaseUnavailable  the record cannot be reached just now
├── Fenced               this worker no longer holds the run; nothing it writes is taken
├── JournalMismatch      the journal does not fit the agent's code any more
├── StepUnknown          a step was cut between intent and outcome, and its policy is `fail`
├── LlmError             a provider, a route or the request to it failed
└── Reject, Retry        what an agent raises to end or to postpone its run
"""

from typing import Any, Self

from tollway.domain.budgets import Exhausted
from tollway.domain.llm import Usage

PROBLEMS: dict[str, tuple[int, str]] = {
    "malformed_json": (400, "The body is not valid JSON"),
    "invalid_request": (400, "The request cannot be understood"),
    "unauthenticated": (401, "No valid API key"),
    "forbidden": (403, "The key may not do this"),
    "budget_exhausted": (403, "The budget is spent"),
    "quota_exhausted": (403, "The quota is spent"),
    "not_found": (404, "No such thing"),
    "method_not_allowed": (405, "The route does not take this method"),
    "idempotency_conflict": (409, "The idempotency key was used with another body"),
    "run_final": (409, "The run has ended"),
    "confirm_mismatch": (409, "The count to confirm has changed"),
    "stale_attempt": (409, "Another attempt holds the run"),
    "conflict": (409, "This would contradict what stands"),
    "precondition_failed": (412, "It was changed meanwhile"),
    "too_large": (413, "The body is too large"),
    "unsupported_media_type": (415, "The body must be JSON"),
    "unknown_agent": (422, "No such agent"),
    "unknown_lane": (422, "No such lane"),
    "unknown_tier": (422, "No such tier"),
    "unknown_model": (422, "No such model"),
    "invalid_input": (422, "The input does not fit"),
    "too_deep": (422, "The JSON is nested too deeply"),
    "rate_limited": (429, "Too many requests"),
    "queue_full": (429, "The queue is full"),
    "overloaded": (429, "The service is overloaded"),
    "internal": (500, "Something went wrong on our side"),
    "not_ready": (503, "Not everything configured is at work yet"),
    "draining": (503, "The process is shutting down"),
    "database_unavailable": (503, "The database cannot be reached"),
}


class TollwayError(Exception):
    """Root of every error Tollway raises."""


class Problem(TollwayError):
    """A refusal at the door.

    `code` is one of PROBLEMS; `fields` are added to the document (`errors`, `opens_at`, …), `headers` to the answer.
    """

    def __init__(
        self, code: str, detail: str, *, fields: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status, self.title = PROBLEMS[code]
        self.detail = detail
        self.fields = fields or {}
        self.headers = headers or {}

    def document(self) -> dict[str, Any]:
        """The RFC 9457 document."""
        return {
            "type": f"https://tollway.dev/problems/{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **self.fields,
        }


class ConfigError(TollwayError):
    """A setting that cannot be used."""

    def __init__(self, key: str, value: object, remedy: str) -> None:
        super().__init__(f"{key} = {value!r}: {remedy}")
        self.key = key
        self.value = value
        self.remedy = remedy


class DatabaseUnavailable(TollwayError):
    """The record cannot be reached just now; the caller may try again."""


class Fenced(TollwayError):
    """The run is held by another claim; this one has no say any more (P3)."""

    def __init__(self, run_id: object) -> None:
        super().__init__(f"run {run_id} is held by another claim")
        self.run_id = run_id


class JournalMismatch(TollwayError):
    """The agent's code asked for a step that its journal does not have at this place."""

    def __init__(self, step: str, recorded: str, asked: str) -> None:
        super().__init__(
            f"step {step} was recorded as {recorded} but the code now asks for {asked}; "
            "replay the run from the start, or deploy the version that began it"
        )
        self.step = step


class StepUnknown(TollwayError):
    """A step was cut between intent and outcome and must not be repeated without a person's word."""

    def __init__(self, step: str, name: str) -> None:
        super().__init__(f"step {step} ({name}) was cut between intent and outcome, and its policy is not to repeat it")
        self.step = step
        self.name = name


class LlmError(TollwayError):
    """A call to a provider failed.

    `code` is a short stable word (`timeout_connect`, `timeout_first_byte`, `timeout_total`, `rate_limited`,
    `provider_5xx`, `bad_response`, `refused`, `unknown_tier`, `no_route`, `connection`, `timeout_step`, `no_capacity`,
    `breaker_open`, `retry_budget`, `too_large`, `budget_exhausted`, `throttled`); `retry_after_s` is the vendor's wish
    or ours, if any; `final` says that asking again cannot help, `parks` that nothing was asked and capacity of `tier`,
    or money, comes later; `field` is the part of the request at fault, where one is.

    `billed` says that the vendor may have charged for the call all the same. `cost_nano` is then the exact charge, to
    be settled, or None where nobody knows it and the reservation stands as `unknown`. Of `budget_exhausted`
    and `throttled`, `exhausted` says which budget, and until when.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        route: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        final: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.route = route
        self.status = status
        self.retry_after_s = retry_after_s
        self.final = final
        self.parks = False
        self.tier: str | None = None
        self.field: str | None = None
        self.billed = False
        self.usage: Usage | None = None
        self.cost_nano: int | None = None
        self.exhausted: Exhausted | None = None

    @property
    def awaits_money(self) -> bool:
        """Whether a run is to park for want of money: its budget says so, or there may be some soon."""
        return self.exhausted is not None and (self.parks or self.exhausted.parks)

    def later(self) -> Self:
        """The same error of a request that was not sent, since capacity comes later: a run parks until then."""
        self.parks = True
        return self

    def charged(self, usage: Usage | None = None, cost_nano: int | None = None) -> Self:
        """The same error of a call that the vendor may have charged for."""
        self.billed = True
        self.usage = usage
        self.cost_nano = cost_nano
        return self


class Reject(TollwayError):
    """Raised by an agent: the run fails for good, with this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Retry(TollwayError):
    """Raised by an agent: try the run again after `after_s` seconds."""

    def __init__(self, after_s: float, reason: str = "the agent asked for a retry") -> None:
        super().__init__(reason)
        self.after_s = after_s
        self.reason = reason
