"""What Tollway counts, under published names: base units, `_total` on counters, labels from bounded sets only.

The work counts into plain integers (about 0.1 µs a count, no lock) and a collector turns them into Prometheus families
when somebody looks. Count from one thread; a process has one `Metrics`, made by its wiring. No label holds a tenant,
a run or anything a client chose.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from tollway.domain.money import NANO

_SERIES_MAX = 500
_OTHER = "other"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
ROWS = (1, 2, 5, 10, 20, 50, 100, 200)


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

    def family(self) -> Metric:
        """The counts as Prometheus reads them."""
        family = CounterMetricFamily(self.name, self.help, labels=self.labels)
        for labels, count in list(self._counts.items()):
            family.add_metric(labels, count / self.divisor if self.divisor != 1 else count)
        return family


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

    def family(self) -> Metric:
        """The readings of this moment."""
        family = GaugeMetricFamily(self.name, self.help, labels=self.labels)
        for labels, reader in list(self._readers.items()):
            family.add_metric(labels, reader())
        return family


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
            series = self._series.setdefault(key, [0.0] * (len(self.bounds) + 2))
        series[bisect_left(self.bounds, value)] += 1
        series[-1] += value

    def family(self) -> Metric:
        """The buckets as Prometheus reads them: each includes those below it."""
        family = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        for labels, series in list(self._series.items()):
            buckets, seen = [], 0.0
            for bound, count in zip((*map(float, self.bounds), float("inf")), series[:-1], strict=True):
                seen += count
                buckets.append((str(bound) if bound != float("inf") else "+Inf", seen))
            family.add_metric(labels, buckets, sum_value=series[-1])
        return family


class Metrics:
    """Everything one process counts. `names` is the published list; `render` is the body of /metrics."""

    def __init__(self) -> None:
        self.runs_accepted = Counter("tollway_runs_accepted_total", "Runs written down and answered 202.", ("lane",))
        self.refusals = Counter("tollway_refusals_total", "Requests refused, by problem code.", ("code",))
        self.runs_claimed = Counter("tollway_runs_claimed_total", "Claims of runs by this process.", ("lane",))
        self.runs_ended = Counter("tollway_runs_ended_total", "Runs ended by this process.", ("lane", "state"))
        self.steps = Counter("tollway_steps_total", "Journaled steps, by how they ended.", ("kind", "state"))
        self.llm_calls = Counter("tollway_llm_calls_total", "Requests to providers.", ("route", "outcome"))
        self.llm_tokens = Counter("tollway_llm_tokens_total", "Tokens as providers count them.", ("route", "kind"))
        self.llm_cost_nano = Counter("tollway_llm_cost_usd_total", "Dollars settled.", ("route",), divisor=NANO)
        self.webhooks = Counter(
            "tollway_webhooks_total", "Attempts to deliver a webhook, by how they went.", ("outcome",)
        )
        self.accept_seconds = Histogram("tollway_accept_seconds", "From a submit read to its answer.", SECONDS)
        self.run_seconds = Histogram("tollway_run_seconds", "From accept to the recorded end.", SECONDS, ("lane",))
        self.llm_seconds = Histogram("tollway_llm_call_seconds", "Duration of provider calls.", SECONDS, ("route",))
        self.flush_rows = Histogram("tollway_flush_rows", "Rows in one group commit.", ROWS, ("batch",))
        self.flush_seconds = Histogram("tollway_flush_seconds", "Duration of a group commit.", SECONDS, ("batch",))
        self.loop_lag_seconds = Histogram("tollway_loop_lag_seconds", "How late the event loop ran.", LAG_SECONDS)
        self.runs_running = Gauge("tollway_runs_running", "Runs that hold a slot of this process now.")
        self.slots = Gauge("tollway_slots", "Slots of this process.")
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(self._all()))
        ProcessCollector(registry=self._registry)

    @property
    def names(self) -> tuple[str, ...]:
        """The published names, in the order they are shown."""
        return tuple(metric.name for metric in self._all())

    def render(self) -> tuple[bytes, str]:
        """The text of /metrics and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def table(self) -> str:
        """The published list as a Markdown table; docs/metrics.md holds it."""
        rows = [
            f"| `{metric.name}` | {type(metric).__name__.lower()} | {', '.join(metric.labels) or ' '} | {metric.help} |"
            for metric in self._all()
        ]
        return "\n".join(["| name | kind | labels | what |", "| --- | --- | --- | --- |", *rows])

    def _all(self) -> tuple[Counter | Gauge | Histogram, ...]:
        return tuple(value for value in vars(self).values() if isinstance(value, Counter | Gauge | Histogram))


class _Collector:
    def __init__(self, metrics: Iterable[Counter | Gauge | Histogram]) -> None:
        self._metrics = tuple(metrics)

    def collect(self) -> Iterator[Metric]:
        for metric in self._metrics:
            yield metric.family()


def _bounded(labels: tuple[str, ...], series: int, width: int) -> tuple[str, ...]:
    """The labels, or `other` for all of them once there are too many series."""
    if len(labels) != width:
        raise ValueError(f"{len(labels)} label values given for {width} labels")
    return labels if series < _SERIES_MAX else (_OTHER,) * width
