"""The meter of the simulated provider, in virtual time."""

from tollway.simulator.buckets import Charge, Limits, Rates
from tollway.simulator.meter import Meter


def test_rows_are_seconds() -> None:
    """Calls of one second share a row, refused ones apart; models beyond the first 64 share a name."""
    meter = Meter(since=100.0)
    for at, refused in ((100.1, False), (100.9, True), (103.0, False)):
        meter.count("m", 7, refused=refused, now=at)
    shown = meter.shown(-1, 104.5)
    assert (shown["now_s"], shown["models"]) == (4.5, {"m": [[0, 1, 7, 1], [3, 1, 7, 0]]})
    assert meter.shown(0, 104.5)["models"] == {"m": [[3, 1, 7, 0]]}
    for number in range(200):
        meter.count(f"m{number}", 1, refused=False, now=105.0)
    models = meter.shown(-1, 105.0)["models"]
    assert (len(models), models["(others)"]) == (65, [[5, 137, 137, 0]])


def test_output_is_given_back() -> None:
    """What was reserved of the limit of output and not made can be taken again at once, never more than the depth."""
    limits = Limits(Rates(tpm_in=6000, tpm_out=6000), 0.0)
    assert limits.admit(Charge(90, 10, 80), 0.0) is None
    refusal = limits.admit(Charge(90, 10, 80), 0.0)
    assert refusal is not None
    assert refusal.what == "output tokens"
    limits.correct(75, 0.0)
    assert limits.admit(Charge(90, 10, 80), 0.0) is None
    limits.correct(10_000, 0.0)
    gauge = limits.gauges(0.0).output
    assert gauge is not None
    assert gauge.remaining == 100
