"""Metrics: published names, Prometheus' form, bounded labels."""

import json
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tollway.telemetry import Metrics
from tollway.telemetry.metrics import SNAPSHOT_BYTES_MAX, Counter, Histogram

ROOT = Path(__file__).parents[3]


def samples(metrics: Metrics, **others: object) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of Tollway's own by name and labels, without the label of the process that is asked."""
    body, content_type = metrics.render("api-1", others)
    assert content_type.startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items() - {("process", "api-1")})): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name.startswith("tollway_")
    }


def test_the_published_list_is_what_is_shown() -> None:
    """docs/metrics.md holds the table of exactly these metrics, and the text of /metrics has each family."""
    metrics = Metrics()
    assert metrics.table() in (ROOT / "docs" / "metrics.md").read_text()
    body = metrics.render("api-1")[0].decode()
    assert all(f"# HELP {name} " in body for name in metrics.names)


def test_names_follow_the_rules() -> None:
    """Names begin with tollway_, counters alone end in _total, and no label is unbounded by its nature."""
    for metric in Metrics()._all():
        assert metric.name.startswith("tollway_")
        assert metric.name.endswith("_total") == isinstance(metric, Counter)
        assert not {"tenant", "run", "run_id", "key", "agent"} & set(metric.labels)


def test_counts_come_out_as_counted() -> None:
    """What was counted, observed and read is what Prometheus parses; money turns from nano-dollars into dollars."""
    metrics = Metrics()
    metrics.runs_ended.add("batch", "succeeded")
    metrics.runs_ended.add("batch", "succeeded", by=2)
    metrics.llm_cost_nano.add("one", by=1_500_000_000)
    for value in (1, 2, 3, 500):
        metrics.flush_rows.observe(value, "accept")
    metrics.slots.read(lambda: 7)
    found = samples(metrics)
    assert found["tollway_runs_ended_total", frozenset({("lane", "batch"), ("state", "succeeded")})] == 3
    assert found["tollway_llm_cost_usd_total", frozenset({("route", "one")})] == 1.5
    assert found["tollway_slots", frozenset()] == 7
    buckets = {
        dict(labels)["le"]: value for (name, labels), value in found.items() if name == "tollway_flush_rows_bucket"
    }
    assert (buckets["1.0"], buckets["2.0"], buckets["5.0"], buckets["200.0"], buckets["+Inf"]) == (1, 2, 3, 3, 4)
    assert found["tollway_flush_rows_sum", frozenset({("batch", "accept")})] == 506
    assert found["tollway_flush_rows_count", frozenset({("batch", "accept")})] == 4


def test_series_are_bounded() -> None:
    """Past the bound every new label value is counted as `other`, and nothing is lost of the total."""
    counter = Counter("tollway_x_total", "x", ("code",))
    histogram = Histogram("tollway_x", "x", (1.0,), ("code",))
    for n in range(2000):
        counter.add(str(n))
        histogram.observe(0.5, str(n))
    assert len(counter.rows()) == 501
    assert sum(count for _, count in counter.rows()) == 2000
    assert sum(sum(series[:-1]) for _, series in histogram.rows()) == 2000


def test_a_wrong_number_of_labels_is_an_error() -> None:
    """A count under too few labels fails at once rather than at the next scrape."""
    with pytest.raises(ValueError, match="labels"):
        Metrics().runs_ended.add("batch")


def counted() -> Metrics:
    """A worker's metrics after some work."""
    metrics = Metrics()
    metrics.runs_ended.add("batch", "succeeded", by=3)
    metrics.llm_cost_nano.add("one", by=2_000_000_000)
    metrics.llm_tokens.add("one", "input", by=0)
    metrics.flushes("journal")(7, 0.002)
    metrics.runs_running.read(lambda: 0)
    return metrics


def test_another_process_is_shown_under_its_own_name() -> None:
    """A snapshot that went through JSON shows the same series as its process would, and nothing of nothing."""
    told = json.loads(json.dumps(counted().snapshot()))
    metrics = Metrics()
    metrics.runs_ended.add("batch", "succeeded", by=5)
    found = samples(metrics, **{"worker-7": told})
    labels = {("lane", "batch"), ("state", "succeeded")}
    assert found["tollway_runs_ended_total", frozenset(labels)] == 5
    theirs = ("process", "worker-7")
    assert found["tollway_runs_ended_total", frozenset({*labels, theirs})] == 3
    assert found["tollway_llm_cost_usd_total", frozenset({("route", "one"), theirs})] == 2
    assert found["tollway_flush_rows_bucket", frozenset({("batch", "journal"), ("le", "10.0"), theirs})] == 1
    assert found["tollway_flush_rows_bucket", frozenset({("batch", "journal"), ("le", "5.0"), theirs})] == 0
    assert found["tollway_flush_seconds_sum", frozenset({("batch", "journal"), theirs})] == 0.002
    assert found["tollway_runs_running", frozenset({theirs})] == 0
    assert "tollway_llm_tokens_total" not in told


@pytest.mark.parametrize(
    "strange",
    [
        None,
        "text",
        {"tollway_future_total": [[["a"], 1]]},
        {"tollway_runs_ended_total": [[["batch"], 1], [[1, 2], 3], "x", [["a", "b"], "many"], None, 5]},
        {"tollway_runs_ended_total": {"a": 1}, "tollway_flush_rows": [[["journal"], [1, 2]], [["journal"], 3]]},
    ],
)
def test_a_snapshot_of_another_version_breaks_nothing(strange: object) -> None:
    """What is unknown, or of another shape, is left out of /metrics; the rest is shown."""
    metrics = counted()
    assert samples(metrics, **{"worker-7": strange}) == samples(metrics)


def test_a_snapshot_is_bounded() -> None:
    """With too many series the histograms go first, and then the metrics with the most; the small ones stay."""
    metrics = counted()
    for route in range(200):
        metrics.llm_seconds.observe(0.1, f"route-{route:03}")
    assert {"tollway_llm_call_seconds", "tollway_flush_rows"}.isdisjoint(metrics.snapshot())
    assert "tollway_runs_ended_total" in metrics.snapshot()
    for code in range(500):
        metrics.refusals.add(f"a_rather_long_problem_code_{code}")
    told = metrics.snapshot()
    assert "tollway_refusals_total" not in told
    assert told["tollway_runs_ended_total"] == [[("batch", "succeeded"), 3]]
    assert len(json.dumps(told)) <= SNAPSHOT_BYTES_MAX + 1000  # json.dumps writes spaces
