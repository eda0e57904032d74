"""Which status a client of the wire gets for a vendor's refusal."""

import pytest

from tollway.ingress.wire.faults import fault_of
from tollway.llm.calls import failure


@pytest.mark.parametrize(("vendor", "ours"), [(400, 400), (401, 502), (404, 502), (422, 422), (500, 502), (501, 400)])
def test_a_refusal_says_whose_fault_it_is(vendor: int, ours: int) -> None:
    """A bad key or address is ours (502); what the vendor refuses, or has no operation for, is the client's (4xx)."""
    told = fault_of(failure(vendor, b"", None), "openai.chat")
    assert told is not None
    assert told[0].status == ours
