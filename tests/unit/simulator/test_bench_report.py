"""What a benchmark makes of its measurements."""

import msgspec
import pytest

from tollway.simulator.accounting import Spent
from tollway.simulator.bench.harness import CallsMeasured, Measured
from tollway.simulator.bench.machine import Machine
from tollway.simulator.bench.report import (
    BenchReport,
    Figure,
    ScenarioReport,
    call_phase,
    call_problems,
    phase,
    problems,
)
from tollway.simulator.load import CallResult, Latency, LoadPlan, LoadResult, RunSeen

LOAD = LoadResult(
    window_s=10.0,
    finished_in_window=1000,
    runs_per_s=100.0,
    exchanges_in_window=2000,
    accept=Latency(),
    seen_final=Latency(),
    end_to_end=Latency(),
    overhead=Latency(),
    accepted=1500,
    finals={"succeeded": 1500},
    lost=0,
    lost_examples=[],
    unsent=0,
    unanswered_submits=0,
    refused={},
    unexpected={},
    examples={},
    disconnects=0,
    backlog=3,
    drained_s=0.1,
)
MACHINE = Machine(
    calibration_ms=10.0, fdatasync=Latency(), filesystem="ext4", cpus=2, cpu="x", python="3.11", kernel="6"
)


def measured(load: LoadResult = LOAD, calls: int = 1500, machine: Machine = MACHINE) -> Measured:
    """A measurement without fault, but for what is asked."""
    return Measured(
        load=load,
        spent=Spent({"api": 0.3, "worker": 0.2}, 0),
        generator_s=0.05,
        provider_s=0.1,
        elsewhere_s=2.0,
        rss_idle={},
        rss_loaded={},
        provider_calls=calls,
        before=machine,
        after=MACHINE,
    )


def test_cpu_is_divided_by_the_runs_of_the_window() -> None:
    """0.5 s over 1,000 runs are 0.5 ms a run, split by role; 0.05 s over 2,000 exchanges are 25 µs."""
    shown = phase("x", measured())
    assert shown.cpu_ms_per_run == {"api": 0.3, "worker": 0.2}
    assert shown.cpu_ms_per_run_total == 0.5
    assert shown.generator_us_per_exchange == 25
    assert shown.elsewhere_cpus == 0.2


def test_a_sound_measurement_has_no_problems() -> None:
    """All accepted, all succeeded, as many calls as runs."""
    assert problems(measured(), calls_per_run=1) == []


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (measured(msgspec.structs.replace(LOAD, lost=2, lost_examples=["r1"])), "2 accepted runs were not final"),
        (measured(msgspec.structs.replace(LOAD, finals={"succeeded": 1499, "dead": 1})), "did not succeed"),
        (measured(msgspec.structs.replace(LOAD, unexpected={"submit 500": 1})), "outside the contract"),
        (measured(msgspec.structs.replace(LOAD, disconnects=1)), "connections were cut"),
        (measured(msgspec.structs.replace(LOAD, accepted=0, finals={}), calls=0), "no run was accepted"),
        (measured(calls=1499), "made theirs up"),
        (measured(calls=1501), "repeated"),
        (measured(machine=msgspec.structs.replace(MACHINE, filesystem="tmpfs")), "power loss"),
    ],
)
def test_every_broken_promise_is_a_problem(broken: Measured, words: str) -> None:
    """Lost, failed, surprising, cut, absent, invented, repeated and volatile are all named."""
    assert any(words in problem for problem in problems(broken, calls_per_run=1))


def test_figures_keep_their_bounds_or_not() -> None:
    """At most and at least include the bound; without a bound nothing is asked."""
    assert Figure(name="a", value=0.8, unit="ms", bound=0.8).met is True
    assert Figure(name="a", value=0.81, unit="ms", bound=0.8).met is False
    assert Figure(name="a", value=1499, unit="/s", bound=1500, side="at least").met is False
    assert Figure(name="a", value=1, unit="").met is None


def test_the_document_says_what_was_met() -> None:
    """JSON carries the verdicts, and a missed figure is no problem."""
    figure = Figure(name="a", value=2, unit="ms", bound=1)
    one = ScenarioReport(scenario="x", figures=[figure], phases=[phase("x", measured())], problems=[])
    document = msgspec.json.decode(msgspec.json.encode(BenchReport(tollway="0", at="now", scenarios=[one]).document()))
    assert document["format"] == 1
    assert document["scenarios"][0]["ok"] is True
    assert document["scenarios"][0]["figures"][0]["met"] is False
    assert document["scenarios"][0]["phases"][0]["machine_before"]["calibration_ms"] == 10.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"clients": 0},
        {"measure_s": 0},
        {"rate_per_s": -1},
        {"poll_s": 0},
        {"warmup_s": -1},
        {"texts": []},
        {"gives_up": True},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    """Nonsense raises ValueError before any load is made."""
    usual: dict[str, object] = {"port": 1, "api_key": "k", "agent": "a", "texts": ["x"]}
    with pytest.raises(ValueError):
        LoadPlan(**(usual | wrong))  # type: ignore[arg-type]


CALLS = CallResult(
    window_s=10.0,
    answered_in_window=1000,
    calls_per_s=100.0,
    whole=Latency(),
    first_byte=Latency(),
    answered=1200,
    refused={},
    cut=0,
    unanswered=0,
    examples=[],
)


def calls_measured(load: CallResult = CALLS, seen: int = 1200) -> CallsMeasured:
    """A measurement of single calls without fault, but for what is asked."""
    return CallsMeasured(load, Spent({"api": 0.3, "postgres backend": 0.05}, 0), 0.02, 0.1, 1.0, seen, MACHINE, MACHINE)


def test_cpu_is_divided_by_the_calls_of_the_window() -> None:
    """0.35 s over 1,000 calls are 0.35 ms a call; provider and generator stand apart."""
    shown = call_phase("x", calls_measured())
    assert shown.cpu_ms_per_call_total == 0.35
    assert shown.cpu_ms_per_call == {"api": 0.3, "postgres backend": 0.05}
    assert (shown.provider_ms_per_call, shown.generator_ms_per_call, shown.elsewhere_cpus) == (0.1, 0.02, 0.1)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (calls_measured(msgspec.structs.replace(CALLS, refused={"429": 1})), "refused, by status"),
        (calls_measured(msgspec.structs.replace(CALLS, cut=1)), "1 calls were cut"),
        (calls_measured(msgspec.structs.replace(CALLS, answered=0), 0), "no call was answered"),
        (calls_measured(seen=1201), "the provider saw 1201 calls, 1200 were answered"),
    ],
)
def test_broken_calls_are_problems(broken: CallsMeasured, words: str) -> None:
    """What a load of calls shows to be wrong is said; a sound one has nothing to say."""
    assert any(words in problem for problem in call_problems(broken))
    assert call_problems(calls_measured()) == []


def test_single_runs_stay_out_of_the_report() -> None:
    """They serve the figures; the document would be all of them."""
    load = msgspec.structs.replace(LOAD, runs=[RunSeen(1.0, 2.0, 1)])
    assert phase("x", measured(load)).load.runs == []
