"""Every metric of the system: its name, kind, unit and help in one typed registry. The docs page is made from it.

Detectors keep plain counts and hand them over when asked (`DetectorShard.report`); the edge renders all of them, so
one scrape of one port sees the whole system (Prometheus text format 0.0.4).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

CounterName = Literal[
    "ingest_requests",
    "ingest_records",
    "ingest_duplicate_records",
    "ingest_rejected_requests",
    "ingest_bytes",
    "hints_lost",
]
HistogramName = Literal["ingest_seconds"]
GaugeName = Literal[
    "detector_batches",
    "detector_records",
    "detector_events",
    "detector_late",
    "detector_future",
    "detector_poison",
    "detector_lag_batches",
    "detector_restarts",
    "detector_tenants",
    "llm_ready",
]
DETECTOR_GAUGES: tuple[GaugeName, ...] = tuple(name for name in get_args(GaugeName) if name.startswith("detector_"))
MetricName = CounterName | HistogramName | GaugeName


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """What one metric means. `unit` is a Prometheus base unit or the counted thing."""

    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...] = ()


METRICS: dict[str, MetricSpec] = {
    "ingest_requests": MetricSpec("counter", "requests", "Export requests answered, by HTTP status.", ("status",)),
    "ingest_records": MetricSpec("counter", "records", "Log records made durable."),
    "ingest_duplicate_records": MetricSpec("counter", "records", "Log records of batches that were stored already."),
    "ingest_rejected_requests": MetricSpec("counter", "requests", "Requests refused, by reason.", ("reason",)),
    "ingest_bytes": MetricSpec("counter", "bytes", "Request bodies made durable, as received."),
    "hints_lost": MetricSpec("counter", "hints", "Wake-up hints that did not reach a detector; the poll covers them."),
    "ingest_seconds": MetricSpec("histogram", "seconds", "Time from the request's last byte to its answer."),
    "detector_batches": MetricSpec("gauge", "batches", "Batches judged since the actor started.", ("actor",)),
    "detector_records": MetricSpec("gauge", "records", "Records judged since the actor started.", ("actor",)),
    "detector_events": MetricSpec("gauge", "events", "Detection events since the actor started.", ("actor",)),
    "detector_late": MetricSpec("gauge", "records", "Records behind the watermark: kept, marked.", ("actor",)),
    "detector_future": MetricSpec("gauge", "records", "Records stamped ahead: clamped, marked.", ("actor",)),
    "detector_poison": MetricSpec("gauge", "items", "Records, rules or batches parked as dead letters.", ("actor",)),
    "detector_lag_batches": MetricSpec("gauge", "batches", "Batches that are durable and not judged yet.", ("actor",)),
    "detector_restarts": MetricSpec("gauge", "restarts", "Times the actor dropped its state and replayed.", ("actor",)),
    "detector_tenants": MetricSpec("gauge", "tenants", "Tenants whose state the actor holds.", ("actor",)),
    "llm_ready": MetricSpec("gauge", "boolean", "1 while the language model answers."),
}

_BUCKETS = {
    "ingest_seconds": (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
}


class Metrics:
    """The metrics of one process. Names outside the registry do not type-check and raise KeyError."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters = {
            name: Counter(f"trustsoc_{name}", METRICS[name].help, METRICS[name].labels, registry=self.registry)
            for name in get_args(CounterName)
        }
        self._gauges = {
            name: Gauge(f"trustsoc_{name}", METRICS[name].help, METRICS[name].labels, registry=self.registry)
            for name in get_args(GaugeName)
        }
        self._histograms = {
            name: Histogram(
                f"trustsoc_{name}",
                METRICS[name].help,
                METRICS[name].labels,
                registry=self.registry,
                buckets=_BUCKETS[name],
            )
            for name in get_args(HistogramName)
        }

    def count(self, name: CounterName, amount: float = 1, **labels: str) -> None:
        """Adds to a counter."""
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(amount)

    def observe(self, name: HistogramName, value: float, **labels: str) -> None:
        """Puts a value into a histogram."""
        histogram = self._histograms[name]
        (histogram.labels(**labels) if labels else histogram).observe(value)

    def set(self, name: GaugeName, value: float, **labels: str) -> None:
        """Sets a gauge."""
        gauge = self._gauges[name]
        (gauge.labels(**labels) if labels else gauge).set(value)

    def render(self) -> bytes:
        """The Prometheus text exposition."""
        return generate_latest(self.registry)


def registry_table(names: Iterable[str] = METRICS) -> str:
    """The registry as a Markdown table, for docs/metrics.md."""
    rows = ["| metric | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
    for name in names:
        spec = METRICS[name]
        suffix = "_total" if spec.kind == "counter" else ""
        labels = ", ".join(spec.labels) or "–"
        rows.append(f"| `trustsoc_{name}{suffix}` | {spec.kind} | {spec.unit} | {labels} | {spec.help} |")
    return "\n".join(rows) + "\n"
