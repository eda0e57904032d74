"""What an unsuccessful status of a provider stands for."""

import pytest

from tollway.llm.calls import failure
from tollway.llm.hop import indicts


@pytest.mark.parametrize(
    ("status", "code", "final", "against_the_route"),
    [(400, "refused", True, False), (401, "refused", True, True), (409, "refused", False, False),
     (500, "provider_5xx", False, True), (501, "refused", True, False), (503, "provider_5xx", False, True)],
)  # fmt: skip
def test_what_speaks_against_a_route(status: int, code: str, final: bool, against_the_route: bool) -> None:
    """An operation that a server lacks (501) is the request's fault: no breaker opens for it, and nobody asks again."""
    error = failure(status, b"", None)
    assert (error.code, error.final, indicts(error)) == (code, final, against_the_route)
