"""Refusals and failures as the wire tells them: the status that makes SDKs raise the right error, and when to ask
again."""

from http import HTTPStatus

from tollway.domain.errors import DatabaseUnavailable, Fenced, LlmError, Problem
from tollway.ingress.problems import Headers, draining, retry_headers, unavailable
from tollway.llm.providers.inbound import Fault
from tollway.record.run_document import rfc3339_epoch

_STATUS = {
    "unknown_tier": 404,
    "no_route": 404,
    "too_large": 400,
    "budget_exhausted": 403,
    "rate_limited": 429,
    "throttled": 429,
    "no_capacity": 429,
    "breaker_open": 503,
    "retry_budget": 503,
    "provider_5xx": 502,
    "connection": 502,
    "bad_response": 502,
    "invalid_answer": 502,
    "timeout_connect": 504,
    "timeout_first_byte": 504,
    "timeout_total": 504,
    "timeout_step": 504,
}
_OUR_FAULT = frozenset((401, 403, 404, 407))
_NOT_IMPLEMENTED = 501
_PASSED_ON = frozenset(status.value for status in HTTPStatus if 400 <= status < 500) - _OUR_FAULT
"""What a vendor's refusal may be told as; some answer with numbers of their own, such as 499."""

_INPUTS = {"openai.responses": {"messages": "input"}, "openai.embeddings": {"messages": "input"}}
_RETRY_S = 1.0
_SOON_S = 60.0
"""What SDKs wait before they try again at the most."""


def fault_of(error: BaseException, form: str) -> tuple[Fault, Headers] | None:
    """The refusal an error stands for, with its headers; None when the error is ours and nobody may read it."""
    if isinstance(error, DatabaseUnavailable):
        error = unavailable(str(error))
    if isinstance(error, Fenced):
        error = Problem("stale_attempt", "The run this key was made for goes on elsewhere.")
    if isinstance(error, Problem):
        headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        headers += _opening(error.fields.get("opens_at"))
        fault = Fault(error.status, error.code, error.detail, error.fields.get("param"))
        return fault, _told(headers, retriable=bool(error.headers.get("Retry-After")))
    if isinstance(error, LlmError):
        return _failed(error, form)
    return None


def cut_off() -> Problem:
    """A request that the end of this process cuts off."""
    return draining()


def _failed(error: LlmError, form: str) -> tuple[Fault, Headers]:
    status = _STATUS.get(error.code, 500)
    if error.code == "refused":
        said = error.status or 400
        at_fault = said in _OUR_FAULT or (said >= 500 and said != _NOT_IMPLEMENTED)
        status = said if said in _PASSED_ON else 502 if at_fault else 400
    param = "model" if error.code == "unknown_tier" else error.field
    if param is not None:
        param = _INPUTS.get(form, {}).get(param, param)
    retriable = status >= 429 and not error.final
    headers: Headers = []
    if retriable and status in (429, 503):
        waits = retry_headers(max(0.05, error.retry_after_s or _RETRY_S))
        headers = [(name.lower().encode(), value.encode()) for name, value in waits.items()]
    soon_s = max(0.05, error.retry_after_s or _RETRY_S)
    if error.exhausted is not None and error.parks and soon_s <= _SOON_S:  # others hold what they may not need
        waits = retry_headers(soon_s) | {"x-should-retry": "true"}
        return Fault(status, error.code, str(error), param), [
            (k.lower().encode(), v.encode()) for k, v in waits.items()
        ]
    if error.exhausted is not None and error.exhausted.until is not None:
        headers += _opening(rfc3339_epoch(error.exhausted.until))
    if error.route:
        headers.append((b"x-tollway-route", error.route.encode("latin-1", "replace")))
    return Fault(status, error.code, str(error), param), _told(headers, retriable=retriable)


def _opening(opens_at: str | None) -> Headers:
    """When there is money, or a quota, again."""
    return [] if opens_at is None else [(b"x-tollway-opens-at", opens_at.encode())]


def _told(headers: Headers, *, retriable: bool) -> Headers:
    """SDKs ask again by themselves after some statuses; where that cannot help they are told not to."""
    return headers if retriable else [*headers, (b"x-should-retry", b"false")]
