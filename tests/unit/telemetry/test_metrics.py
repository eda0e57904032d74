"""Metrics: published names, Prometheus' form, bounded labels."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tollway.telemetry import Metrics
from tollway.telemetry.metrics import Counter, Histogram

ROOT = Path(__file__).parents[3]


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_the_published_list_is_what_is_shown() -> None:
    """docs/metrics.md holds the table of exactly these metrics, and the text of /metrics has each family."""
    metrics = Metrics()
    assert metrics.table() in (ROOT / "docs" / "metrics.md").read_text()
    body = metrics.render()[0].decode()
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
    assert len(list(counter.family().samples)) == 501
    assert sum(sample.value for sample in counter.family().samples) == 2000
    assert sum(s.value for s in histogram.family().samples if s.name.endswith("_count")) == 2000


def test_a_wrong_number_of_labels_is_an_error() -> None:
    """A count under too few labels fails at once rather than at the next scrape."""
    with pytest.raises(ValueError, match="labels"):
        Metrics().runs_ended.add("batch")
