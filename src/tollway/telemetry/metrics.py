"""What Tollway counts, under published names: base units, `_total` on counters, labels from bounded sets only.

The work counts into plain integers (about 0.1 µs a count, no lock) and a collector turns them into Prometheus families
when somebody looks. Count from one thread; a process has one `Metrics`, made by its wiring. No label holds a tenant,
a run or anything a client chose. A process without a door of its own hands a `snapshot` to one that has: `render` shows
the series of all, each under its `process`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tollway.domain.money import NANO

SNAPSHOT_BYTES_MAX = 8000
_SERIES_MAX = 500
_OTHER = "other"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
SHARES = (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.75, 1.0, 2.0, 5.0)
ROWS = (1, 2, 5, 10, 20, 50, 100, 200)


PROCESS = "process"
"""The label every series has: the role and incarnation of the process that counted."""

Row = tuple[Any, Any]
"""A series: its label values, and a number or a list of them. What comes from another process may be anything."""


class Counter:
    """A number that only grows, per set of labels; `divisor` turns what is counted into the unit of the name."""

    __slots__ = ("_counts", "divisor", "help", "labels", "name")

    def __init__(self, name: str, help_text: str, labels: tuple[str, ...] = (), divisor: int = 1) -> None:
        self.name = name
        self.help = help_text
        self.labels = labels
        self.divisor = divisor
        self._counts: dict[tuple[str, ...], int] = {} if labels else {(): 0}

    def add(self, *labels: str, by: int = 1) -> None:
        """Count `by` more under these label values, in the order of `labels`."""
        try:
            self._counts[labels] += by
        except KeyError:
            key = _bounded(labels, len(self._counts), len(self.labels))
            self._counts[key] = self._counts.get(key, 0) + by

    def value(self, *labels: str) -> int:
        """What was counted so far, undivided."""
        return self._counts.get(labels, 0)

    def rows(self) -> list[Row]:
        """Every series: its label values and its count, undivided."""
        return list(self._counts.items())

    def family(self) -> Metric:
        """The empty family, as Prometheus names it."""
        return CounterMetricFamily(self.name, self.help, labels=(PROCESS, *self.labels))

    def show(self, family: Metric, process: str, row: Row) -> None:
        """Add a series to the family. Raises ValueError, TypeError for what is none of this metric."""
        labels, count = _checked(row, len(self.labels))
        value = float(count) / self.divisor if self.divisor != 1 else float(count)
        family.add_sample(self.name, dict(zip((PROCESS, *self.labels), (process, *labels), strict=True)), value)


class Gauge:
    """A number read when somebody looks: `read` is asked then, for each set of labels it was given."""

    __slots__ = ("_readers", "help", "labels", "name")

    def __init__(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> None:
        self.name = name
        self.help = help_text
        self.labels = labels
        self._readers: dict[tuple[str, ...], Callable[[], float]] = {}

    def read(self, reader: Callable[[], float], *labels: str) -> None:
        """Ask `reader`, which must be cheap and must not raise, for the value under these labels."""
        self._readers[_bounded(labels, len(self._readers), len(self.labels))] = reader

    def rows(self) -> list[Row]:
        """The readings of this moment."""
        return [(labels, reader()) for labels, reader in list(self._readers.items())]

    def family(self) -> Metric:
        """The empty family, as Prometheus names it."""
        return GaugeMetricFamily(self.name, self.help, labels=(PROCESS, *self.labels))

    def show(self, family: Metric, process: str, row: Row) -> None:
        """Add a series to the family. Raises ValueError, TypeError for what is none of this metric."""
        labels, value = _checked(row, len(self.labels))
        family.add_sample(self.name, dict(zip((PROCESS, *self.labels), (process, *labels), strict=True)), float(value))


class Histogram:
    """How many observations fell at or below each bound, and their sum, per set of labels."""

    __slots__ = ("_series", "bounds", "help", "labels", "name")

    def __init__(self, name: str, help_text: str, bounds: tuple[float, ...], labels: tuple[str, ...] = ()) -> None:
        self.name = name
        self.help = help_text
        self.bounds = bounds
        self.labels = labels
        self._series: dict[tuple[str, ...], list[float]] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Take one observation, in the unit of the name."""
        series = self._series.get(labels)
        if series is None:
            key = _bounded(labels, len(self._series), len(self.labels))
            series = self._series.setdefault(key, [0] * (len(self.bounds) + 1) + [0.0])
        series[bisect_left(self.bounds, value)] += 1
        series[-1] += value

    def rows(self) -> list[Row]:
        """Every series: its label values, and the count of each bucket by itself, then the sum."""
        return [(labels, list(series)) for labels, series in list(self._series.items())]

    def family(self) -> HistogramMetricFamily:
        """The empty family, as Prometheus names it."""
        return HistogramMetricFamily(self.name, self.help, labels=(PROCESS, *self.labels))

    def show(self, family: Metric, process: str, row: Row) -> None:
        """Add a series to the family: each bucket includes those below it. Raises ValueError, TypeError."""
        labels, series = _checked(row, len(self.labels))
        counts = [float(count) for count in series]
        buckets, seen = [], 0.0
        for bound, count in zip((*map(str, map(float, self.bounds)), "+Inf"), counts[:-1], strict=True):
            seen += count
            buckets.append((bound, seen))
        assert isinstance(family, HistogramMetricFamily)
        family.add_metric((process, *labels), buckets, sum_value=counts[-1])


class Metrics:
    """Everything one process counts. `names` is the published list; `render` is the body of /metrics."""

    def __init__(self) -> None:
        self.runs_accepted = Counter("tollway_runs_accepted_total", "Runs written down and answered 202.", ("lane",))
        self.refusals = Counter("tollway_refusals_total", "Requests refused, by problem code.", ("code",))
        self.runs_claimed = Counter("tollway_runs_claimed_total", "Claims of runs by this process.", ("lane",))
        self.runs_ended = Counter("tollway_runs_ended_total", "Runs ended by this process.", ("lane", "state"))
        self.runs_returned = Counter(
            "tollway_runs_returned_total", "Attempts of this process that did not end their run.", ("lane", "reason")
        )
        self.steps = Counter("tollway_steps_total", "Journaled steps, by how they ended.", ("kind", "state"))
        self.llm_calls = Counter("tollway_llm_calls_total", "Requests to providers.", ("route", "outcome"))
        self.llm_tokens = Counter("tollway_llm_tokens_total", "Tokens as providers count them.", ("route", "kind"))
        self.llm_cost_nano = Counter("tollway_llm_cost_usd_total", "Dollars settled.", ("route",), divisor=NANO)
        self.llm_cache = Counter(
            "tollway_llm_cache_total",
            "Calls that might be answered from the cache, by what became of them.",
            ("result",),
        )
        self.llm_adjusted_nano = Counter(
            "tollway_llm_adjusted_usd_total", "Dollars beyond what was reserved for a call.", ("route",), divisor=NANO
        )
        self.llm_saved_nano = Counter("tollway_llm_saved_usd_total", "Dollars that hits saved.", divisor=NANO)
        self.degraded = Counter(
            "tollway_degraded_total", "Calls that stood on a rung, given, made or refused.", ("rung",)
        )
        self.task_cache = Counter("tollway_task_cache_total", "The same of tasks with a `cache_ttl`.", ("result",))
        self.wire_requests = Counter(
            "tollway_wire_requests_total", "Answers over the wire, streams when they begin.", ("form", "status")
        )
        self.llm_waiting = Gauge("tollway_llm_waiting", "Calls that wait for capacity now.", ("route",))
        self.llm_in_flight = Gauge("tollway_llm_in_flight", "Calls under way now.", ("route",))
        self.breaker_open = Gauge("tollway_breaker_open", "1 while the breaker is not closed.", ("route",))
        self.dependency_open = Gauge(
            "tollway_dependency_open", "1 while the breaker of a dependency is not closed.", ("dependency",)
        )
        self.webhooks = Counter(
            "tollway_webhooks_total", "Attempts to deliver a webhook, by how they went.", ("outcome",)
        )
        self.alerts = Counter("tollway_alerts_total", "Alerts told.", ("kind",))
        self.accept_seconds = Histogram("tollway_accept_seconds", "From a submit read to its answer.", SECONDS)
        self.run_seconds = Histogram("tollway_run_seconds", "From accept to the recorded end.", SECONDS, ("lane",))
        self.llm_seconds = Histogram("tollway_llm_call_seconds", "Duration of provider calls.", SECONDS, ("route",))
        self.flush_rows = Histogram("tollway_flush_rows", "Rows in one group commit.", ROWS, ("batch",))
        self.flush_seconds = Histogram("tollway_flush_seconds", "Duration of a group commit.", SECONDS, ("batch",))
        self.loop_lag_seconds = Histogram("tollway_loop_lag_seconds", "How late the event loop ran.", LAG_SECONDS)
        self.predicted_wait = Gauge(
            "tollway_predicted_wait_seconds",
            "Until what stands in the lane now has started, by the forecast.",
            ("lane",),
        )
        self.start_error_seconds = Histogram(
            "tollway_start_error_seconds", "Between a run's predicted start and its start.", SECONDS, ("lane",)
        )
        self.start_error_ratio = Histogram(
            "tollway_start_error_ratio", "The same over its wait, of runs that waited over a second.", SHARES, ("lane",)
        )
        self.runs_running = Gauge("tollway_runs_running", "Runs that hold a slot of this process now.")
        self.slots = Gauge("tollway_slots", "Slots of this process.")
        self.queue_runnable = Gauge("tollway_queue_runnable", "Queued runs that could run now.", ("lane",))
        self.queue_blocked = Gauge("tollway_queue_blocked", "Live runs that could not, by why.", ("lane", "reason"))
        self.queue_running = Gauge("tollway_queue_running", "Runs in slots, over all workers.", ("lane",))
        self.workers_wanted = Gauge("tollway_workers_wanted", "Workers that the lane's work wants.", ("lane",))
        self._own_process = ProcessCollector(registry=None)

    @property
    def names(self) -> tuple[str, ...]:
        """The published names, in the order they are shown."""
        return tuple(metric.name for metric in self._all())

    def flushes(self, batch: str) -> Callable[[int, float], None]:
        """What counts the group commits of one kind: rows and seconds of each."""

        def flushed(rows: int, took_s: float) -> None:
            self.flush_rows.observe(rows, batch)
            self.flush_seconds.observe(took_s, batch)

        return flushed

    def snapshot(self) -> dict[str, list[Any]]:
        """Every gauge and whatever else was counted, as JSON of at most SNAPSHOT_BYTES_MAX carries it.

        When they are too many, the histograms are left out, then the metrics with the most series. From any thread.
        """
        told = {
            metric.name: [[labels, value] for labels, value in metric.rows() if value or isinstance(metric, Gauge)]
            for metric in self._all()
        }
        told = {name: rows for name, rows in told.items() if rows}
        sizes = {name: len(msgspec.json.encode(rows)) + len(name) + 8 for name, rows in told.items()}
        if sum(sizes.values()) > SNAPSHOT_BYTES_MAX:
            for metric in self._all():
                if isinstance(metric, Histogram):
                    sizes.pop(metric.name, None)
        while sum(sizes.values()) > SNAPSHOT_BYTES_MAX:
            del sizes[max(sizes, key=sizes.__getitem__)]
        return {name: told[name] for name in sizes}

    def render(self, process: str, others: Mapping[str, object] | None = None) -> tuple[bytes, str]:
        """The text of /metrics and its content type: this process' series, and the snapshots of `others` by name.

        What a snapshot has that this version does not know is left out.
        """
        return generate_latest(_Collection(self._collect(process, others or {}))), CONTENT_TYPE_LATEST

    def _collect(self, process: str, others: Mapping[str, object]) -> Iterator[Metric]:
        known = {name: told for name, told in others.items() if isinstance(told, dict)}
        for metric in self._all():
            family = metric.family()
            for row in metric.rows():
                metric.show(family, process, row)
            for name, told in known.items():
                rows = told.get(metric.name)
                for row in rows if isinstance(rows, list) else ():
                    with suppress(TypeError, ValueError):
                        metric.show(family, name, row)
            yield family
        yield from self._own_process.collect()

    def table(self) -> str:
        """The published list as a Markdown table; docs/metrics.md holds it."""
        rows = [
            f"| `{metric.name}` | {type(metric).__name__.lower()} | {', '.join(metric.labels) or ' '} | {metric.help} |"
            for metric in self._all()
        ]
        return "\n".join(["| name | kind | labels | what |", "| --- | --- | --- | --- |", *rows])

    def _all(self) -> tuple[Counter | Gauge | Histogram, ...]:
        return tuple(value for value in vars(self).values() if isinstance(value, Counter | Gauge | Histogram))


class _Collection(Collector):
    def __init__(self, families: Iterator[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return self._families


def _checked(row: Row, width: int) -> Row:
    """The row, if it has this many label values. Raises ValueError, TypeError."""
    labels, value = row
    if len(labels) != width or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{labels!r} are not {width} label values")
    return labels, value


def _bounded(labels: tuple[str, ...], series: int, width: int) -> tuple[str, ...]:
    """The labels, or `other` for all of them once there are too many series."""
    if len(labels) != width:
        raise ValueError(f"{len(labels)} label values given for {width} labels")
    return labels if series < _SERIES_MAX else (_OTHER,) * width
