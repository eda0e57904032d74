"""Which status a client of the wire gets for a vendor's refusal."""

import pytest

from tollway.domain.budgets import Exhausted
from tollway.domain.errors import LlmError
from tollway.ingress.money import exhausted_problem
from tollway.ingress.wire.faults import fault_of
from tollway.llm.calls import failure


@pytest.mark.parametrize(("vendor", "ours"), [(400, 400), (401, 502), (404, 502), (422, 422), (500, 502), (501, 400)])
def test_a_refusal_says_whose_fault_it_is(vendor: int, ours: int) -> None:
    """A bad key or address is ours (502); what the vendor refuses, or has no operation for, is the client's (4xx)."""
    told = fault_of(failure(vendor, b"", None), "openai.chat")
    assert told is not None
    assert told[0].status == ours


def spent(until: float | None) -> LlmError:
    """The error of a call that budget 7 does not pay."""
    error = LlmError("budget_exhausted", "budget 7 is spent", final=True)
    error.exhausted = Exhausted(7, until, parks=True)
    return error


def test_a_spent_budget_says_when_it_opens() -> None:
    """P11: 403, when there is money again, and nothing that has an SDK try again; at the door as after it."""
    at_door = exhausted_problem(Exhausted(7, 1_000_000.0, parks=True), 999_000.0)
    for error in (spent(1_000_000.0), at_door):
        told = fault_of(error, "openai.chat")
        assert told is not None
        assert (told[0].status, told[0].code) == (403, "budget_exhausted")
        assert dict(told[1])[b"x-tollway-opens-at"] == b"1970-01-12T13:46:40.000Z"
    ever = fault_of(spent(None), "openai.chat")
    assert ever is not None
    assert ever[1] == [(b"x-should-retry", b"false")]


def test_money_that_others_hold_is_asked_for_again() -> None:
    """While it may come back an SDK is told to try again, and when."""
    error = spent(1_000_000.0).later()
    error.retry_after_s = 0.25
    told = fault_of(error, "anthropic.messages")
    assert told is not None
    headers = dict(told[1])
    assert (told[0].status, headers[b"x-should-retry"], headers[b"retry-after-ms"]) == (403, b"true", b"250")
