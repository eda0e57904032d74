"""CPU by process."""

import pytest

from tollway.simulator.accounting import Process, Snapshot, role_of, spent_between


@pytest.mark.parametrize(
    ("command_line", "role"),
    [
        ("/v/bin/python /v/bin/tollway api --port 8700", "api"),
        ("/v/bin/python /v/bin/tollway worker --agents bench_agents", "worker"),
        ("/v/bin/python -m tollway keeper", "keeper"),
        ("tollway worker 1", "worker"),
        ("tollway: worker 0190aaaa", "worker"),
        ("tollway-worker", "worker"),
        ("/v/bin/python -m tollway.runtime.worker 3", "worker"),
        ("/v/bin/python /v/bin/tollway provider-sim --port 1 --config /x/provider.toml", "provider-sim"),
        ("/v/bin/postgres -D /var/tmp/tollway-bench-1/data", "postgres postmaster"),
        ("postgres: tollway_app tollway 127.0.0.1(5123) idle", "postgres backend"),
        ("postgres: tollway_app tollway 127.0.0.1(5123) startup", "postgres backend"),
        ("postgres: walwriter", "postgres walwriter"),
        ("postgres: main: autovacuum worker tollway", "postgres autovacuum"),
        ("postgres: io worker 0", "postgres io worker"),
        ("postgres: checkpointer", "postgres checkpointer"),
        ("/bin/sh -c sleep 1", "other"),
        ("", "other"),
    ],
)
def test_a_process_is_known_by_its_command_line(command_line: str, role: str) -> None:
    """The contract's names of processes map to roles."""
    assert role_of(command_line) == role


def test_the_root_is_the_supervisor() -> None:
    """Whatever `tollway up` is asked to run, it is the supervisor."""
    assert role_of("/v/bin/python /v/bin/tollway up --agents worker", is_root=True) == "supervisor"


def _process(pid: int, parent: int, role: str, own_s: float, reaped_s: float = 0.0, *, started: int = 1) -> Process:
    return Process(pid, started, parent, role, own_s, reaped_s, 1024)


def _snapshot(*processes: Process) -> Snapshot:
    return Snapshot(0.0, {(process.pid, process.started): process for process in processes})


def test_what_the_living_spent_goes_to_their_roles() -> None:
    """Each role is charged the difference of its processes."""
    before = _snapshot(_process(1, 0, "supervisor", 1.0), _process(2, 1, "worker", 5.0), _process(3, 1, "worker", 1.0))
    after = _snapshot(_process(1, 0, "supervisor", 1.5), _process(2, 1, "worker", 7.0), _process(3, 1, "worker", 2.0))
    spent = spent_between(before, after)
    assert spent.by_role == {"supervisor": 0.5, "worker": 3.0}
    assert spent.total_s == 3.5
    assert spent.missing == 0


def test_a_process_that_began_and_ended_in_between_is_counted() -> None:
    """A backend no snapshot saw shows in the reaped time of the postmaster."""
    before = _snapshot(_process(9, 1, "postgres postmaster", 1.0, 2.0))
    after = _snapshot(_process(9, 1, "postgres postmaster", 1.0, 2.75))
    assert spent_between(before, after).by_role == {"postgres ended backend": 0.75}


def test_a_process_that_ended_is_charged_only_what_it_spent_in_between() -> None:
    """Its earlier time, now in its parent's reaped time, is not counted again."""
    before = _snapshot(_process(9, 1, "postgres postmaster", 1.0, 2.0), _process(10, 9, "postgres backend", 4.0, 0.5))
    after = _snapshot(_process(9, 1, "postgres postmaster", 1.0, 2.0 + 4.5 + 0.25))
    assert spent_between(before, after).by_role == {"postgres backend": 0.25}


def test_a_pid_used_again_is_another_process() -> None:
    """A new process under an old pid starts from nothing."""
    before = _snapshot(_process(1, 0, "supervisor", 1.0), _process(2, 1, "worker", 5.0, started=1))
    after = _snapshot(_process(1, 0, "supervisor", 1.0, 5.5), _process(2, 1, "worker", 0.25, started=2))
    assert spent_between(before, after).by_role == {"worker": 0.75}


def test_a_family_that_ended_is_inherited_by_the_nearest_survivor() -> None:
    """A dead database and its dead backends: all their time is in the supervisor's reaped time, none counted twice."""
    before = _snapshot(
        _process(1, 0, "supervisor", 1.0),
        _process(2, 1, "postgres postmaster", 1.0),
        _process(3, 2, "postgres backend", 4.0),
    )
    after = _snapshot(_process(1, 0, "supervisor", 1.0, 5.0 + 0.5))
    spent = spent_between(before, after)
    assert spent.total_s == 0.5
    assert spent.missing == 0


def test_what_vanished_with_its_parent_is_told() -> None:
    """CPU that nobody reaped cannot be counted, and the report says so."""
    before = _snapshot(_process(1, 0, "supervisor", 1.0), _process(8, 7, "worker", 5.0))
    after = _snapshot(_process(1, 0, "supervisor", 1.5))
    spent = spent_between(before, after)
    assert spent.by_role == {"supervisor": 0.5}
    assert spent.missing == 1


def test_resident_memory_adds_up_by_role() -> None:
    """Two workers count together."""
    tree = _snapshot(_process(1, 0, "supervisor", 0), _process(2, 1, "worker", 0), _process(3, 1, "worker", 0))
    assert tree.rss_by_role() == {"supervisor": 1024, "worker": 2048}
