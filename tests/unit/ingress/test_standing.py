"""What the API knows of classes that no worker starts."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.gates import Blocked
from tollway.ingress.standing import shut_classes
from tollway.record.processes import LiveProcess


def worker(facts: dict[str, Any], *, stopping: bool = False) -> LiveProcess:
    """A worker that tells this."""
    return LiveProcess(1, "worker", "h", 1, stopping, 0, facts)


SHUT = {"agents": ["sync"], "doors": {"sync": ["dependency", "crm", 20.0]}}
SOONER = {"agents": ["sync"], "doors": {"sync": ["dependency", "crm", 10.0]}}
UNTOLD = {"agents": ["sync"], "doors": {"sync": ["dependency", "crm", None]}}


def test_a_class_is_shut_when_it_is_in_every_worker() -> None:
    """One worker that starts its runs is enough; one that stops, or does not serve it, has no say."""
    assert shut_classes([]) == {}
    assert shut_classes([worker(SHUT)]) == {"sync": Blocked("dependency", "crm", 20.0)}
    assert shut_classes([worker(SHUT), worker({"agents": ["sync"], "doors": {}})]) == {}
    assert shut_classes([worker(SHUT), worker({"agents": ["other"]})]) == shut_classes([worker(SHUT)])
    assert shut_classes([worker(SHUT), worker({"agents": ["sync"]}, stopping=True)]) == shut_classes([worker(SHUT)])


def test_until_is_the_earliest_of_the_workers() -> None:
    """Who opens first starts the runs; a worker that cannot tell leaves it to the others."""
    for told in ([SHUT, SOONER], [SOONER, SHUT], [UNTOLD, SOONER], [SOONER, UNTOLD]):
        assert shut_classes([worker(facts) for facts in told])["sync"].until == 10.0
    assert shut_classes([worker(UNTOLD)])["sync"].until is None


@given(st.recursive(st.none() | st.integers() | st.text(max_size=3), st.lists, max_leaves=5))
def test_what_another_version_tells_is_no_reason(told: Any) -> None:
    """Facts in a form of their own neither raise nor hold anything back."""
    found = shut_classes([worker({"agents": ["sync"], "doors": {"sync": told}}), worker({"agents": told})])
    assert set(found) <= {"sync"}
    assert shut_classes([worker({"agents": ["sync"], "doors": told})]) == {}
