"""Every metric of the system: its name, kind, unit and help in one typed registry. The docs page is made from it.

Detectors keep plain counts and hand them over when asked (`DetectorShard.report`); the edge renders all of them, so
one scrape of one port sees the whole system (Prometheus text format 0.0.4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    "ingest_door_requests",
    "ingest_door_records",
    "ingest_door_rejected_records",
    "syslog_connections",
    "syslog_cut_messages",
    "syslog_retries",
    "syslog_lost_records",
    "hints_lost",
    "admission_decisions",
    "tenant_records",
    "tenant_refused_requests",
    "janitor_rows",
    "janitor_failures",
    "searches_refused",
    "ledger_statements",
    "agent_requests",
    "job_results",
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
    "detector_parked",
    "detector_evicted",
    "detector_shards",
    "llm_ready",
    "admission_requests",
    "admission_bytes",
    "journal_waiting_batches",
    "journal_waiting_bytes",
    "backlog_records",
    "disk_free_bytes",
    "tls_certificate_expires_seconds",
    "syslog_open_connections",
    "syslog_listeners",
    "janitor_last_success_seconds",
    "janitor_duration_seconds",
    "ledger_gaps",
    "ledger_missing_records",
    "ledger_excess_records",
    "rule_hits",
    "rule_cost_seconds",
    "agent_polls_waiting",
    "agents",
    "jobs_open",
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
    "ingest_door_requests": MetricSpec(
        "counter", "requests", "Requests to the doors beside OTLP, by HTTP status.", ("door", "status")
    ),
    "ingest_door_records": MetricSpec(
        "counter",
        "records",
        "Log records made durable, by door: otlp_http, signed, otlp_grpc, ndjson, bulk or syslog.",
        ("door",),
    ),
    "ingest_door_rejected_records": MetricSpec(
        "counter", "records", "Lines, documents and messages that can never be stored, by reason.", ("door", "reason")
    ),
    "syslog_connections": MetricSpec("counter", "connections", "Syslog connections, by how they ended.", ("outcome",)),
    "syslog_cut_messages": MetricSpec(
        "counter", "messages", "Syslog messages over the limit or cut off: stored, marked."
    ),
    "syslog_retries": MetricSpec(
        "counter", "attempts", "Syslog batches that the journal did not take yet; tried again."
    ),
    "syslog_lost_records": MetricSpec("counter", "records", "Syslog messages read and given up at a shutdown."),
    "syslog_open_connections": MetricSpec("gauge", "connections", "Syslog connections that are open now."),
    "syslog_listeners": MetricSpec("gauge", "listeners", "Syslog listeners that this replica holds open."),
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
    "detector_parked": MetricSpec("gauge", "tenants", "Tenants left alone for a while after a failure.", ("actor",)),
    "detector_evicted": MetricSpec("gauge", "tenants", "Times a tenant's state was put away to make room.", ("actor",)),
    "detector_shards": MetricSpec("gauge", "shards", "Shards that the actor holds.", ("actor",)),
    "llm_ready": MetricSpec("gauge", "boolean", "1 while the language model answers."),
    "admission_decisions": MetricSpec("counter", "requests", "Requests admitted, or refused why.", ("decision",)),
    "tenant_records": MetricSpec("counter", "records", "Records taken from a tenant; `other`: the rest.", ("tenant",)),
    "tenant_refused_requests": MetricSpec("counter", "requests", "Requests refused by admission.", ("tenant",)),
    "admission_requests": MetricSpec("gauge", "requests", "Log requests that are being taken in now."),
    "admission_bytes": MetricSpec("gauge", "bytes", "Bodies of those requests, as sent."),
    "journal_waiting_batches": MetricSpec("gauge", "batches", "Batches that wait for a commit."),
    "journal_waiting_bytes": MetricSpec("gauge", "bytes", "Payload that waits for a commit."),
    "backlog_records": MetricSpec("gauge", "records", "Durable records that no detector has judged yet (estimated)."),
    "disk_free_bytes": MetricSpec("gauge", "bytes", "Free on the disk of the embedded PostgreSQL."),
    "tls_certificate_expires_seconds": MetricSpec("gauge", "seconds", "When the TLS certificate expires, epoch."),
    "ledger_statements": MetricSpec("counter", "statements", "Senders' statements, by their verdict.", ("verdict",)),
    "ledger_gaps": MetricSpec("gauge", "runs", "Runs whose sender's books and the journal do not balance."),
    "ledger_missing_records": MetricSpec("gauge", "records", "Records that senders had and the journal has not."),
    "ledger_excess_records": MetricSpec("gauge", "records", "Records that the journal has and no sender knows of."),
    "agent_requests": MetricSpec(
        "counter", "requests", "Requests of agents answered, by route and HTTP status.", ("path", "status")
    ),
    "agent_polls_waiting": MetricSpec("gauge", "requests", "Agents' requests that wait for a job on this replica."),
    "agents": MetricSpec(
        "gauge",
        "agents",
        "Active agents of all tenants, by their own word or `silent` (for 2 minutes).",
        ("status",),
    ),
    "jobs_open": MetricSpec("gauge", "jobs", "Jobs of all tenants that are not over, by state.", ("state",)),
    "job_results": MetricSpec(
        "counter",
        "results",
        "Results that agents sent, by the job's state after it; repeats count too.",
        ("state",),
    ),
    "janitor_rows": MetricSpec("counter", "rows", "Rows and partitions made or deleted by a chore.", ("chore",)),
    "janitor_failures": MetricSpec("counter", "runs", "Runs of a chore that failed or were put off.", ("chore",)),
    "rule_hits": MetricSpec(
        "gauge", "events", "Events of the 50 rules that hit most since the detectors started.", ("rule",)
    ),
    "rule_cost_seconds": MetricSpec(
        "gauge",
        "seconds",
        "Processor time of the 50 costliest rules since the detectors started, estimated from one record in 1,000: "
        "each rule that was a candidate, judged alone.",
        ("rule",),
    ),
    "searches_refused": MetricSpec("counter", "searches", "Searches put off because too many ran at once."),
    "janitor_last_success_seconds": MetricSpec("gauge", "seconds", "When a chore last succeeded, epoch.", ("chore",)),
    "janitor_duration_seconds": MetricSpec("gauge", "seconds", "How long a chore's last success took.", ("chore",)),
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

    def replace(self, name: GaugeName, label: str, values: Mapping[str, float]) -> None:
        """Sets a gauge for these values of its one label, and forgets every other."""
        gauge = self._gauges[name]
        gauge.clear()
        for value, amount in values.items():
            gauge.labels(**{label: value}).set(amount)

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
