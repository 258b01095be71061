"""What a tenant's data must be, computed from its journal alone, against what is stored after all the kills.

The journal's rows go once, in order, through the pure detector in this process: nobody disturbs that run. Every
record, event, incident, rollup and dead letter of it must be in the store, equal, once, and nothing else.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from bench.chaos.senders import Acknowledged
from cluster.postgres import DATABASE, SUPERUSER, EmbeddedPostgres
from detect.batch import BatchOutput
from detect.record import TenantId, canonical_json
from detect.sigma import RuleSet, load_rule_set, unpack
from detect.tenant import TenantDetector
from models.ewma import EwmaModel
from store.detection_rows import (
    event_row,
    incident_row,
    member_columns,
    newest_incidents,
    rollup_columns,
)
from store.journal import JournalRow

_EVENTS = """SELECT tenant_id, event_id, seq, position, time, end_time, kind, detector, rule_id, rule_version, title,
    description, severity, score, activity, outcome, techniques, tactics, entities, evidence, matched, attributes
    FROM events WHERE tenant_id = $1"""
_INCIDENTS = """SELECT tenant_id, incident_id, revision, title, severity, score, first_time, last_time, created_seq,
    updated_seq, event_count, entities, techniques, tactics, predecessor FROM incidents WHERE tenant_id = $1"""
_MEMBERS = "SELECT incident_id, event_id, position, time, stage, reason FROM incident_events WHERE tenant_id = $1"
_ROLLUPS = {
    "1m": "SELECT entity_kind, entity, window_start, features FROM feature_rollup_1m WHERE tenant_id = $1",
    "5m": "SELECT entity_kind, entity, window_start, features FROM feature_rollup_5m WHERE tenant_id = $1",
    "1h": "SELECT entity_kind, entity, window_start, features FROM feature_rollup_1h WHERE tenant_id = $1",
}
_RECORDS = "SELECT seq, position, record::text AS record FROM raw_logs WHERE tenant_id = $1"
_DEAD = "SELECT stage, subject, sum(count)::int FROM dead_letters WHERE tenant_id = $1 GROUP BY stage, subject"
_JOURNAL = """SELECT seq, received, agent, idempotency_key, digest, kind, encoding, records, payload
    FROM journal WHERE tenant_id = $1 ORDER BY seq"""


@dataclass(slots=True)
class Verdict:
    """The counts of a tenant and everything that is not as it must be; no differences is the promise kept."""

    batches: int = 0
    records: int = 0
    events: int = 0
    incidents: int = 0
    differences: list[str] = field(default_factory=list)


async def judge(data_directory: Path, tenant_name: str, acknowledged: Iterable[Acknowledged]) -> Verdict:
    """The verdict over one tenant of a running installation, once all its batches are judged."""
    server = EmbeddedPostgres(data_directory)
    connection = await asyncpg.connect(server.dsn(SUPERUSER, DATABASE))
    try:
        tenant = await connection.fetchval("SELECT tenant_id FROM tenants WHERE name = $1", tenant_name)
        packs = {row["digest"]: row["pack"] for row in await connection.fetch("SELECT digest, pack FROM rule_sets")}
        rows = [_journal_row(row) for row in await connection.fetch(_JOURNAL, tenant)]
        verdict = Verdict(batches=sum(row.kind != "control" for row in rows))
        _check_journal(rows, acknowledged, verdict)
        outputs = _undisturbed(TenantId(UUID(int=tenant.int)), rows, packs)
        await _check_store(connection, tenant, outputs, verdict)
        return verdict
    finally:
        await connection.close()


def _journal_row(row: Any) -> JournalRow:
    return JournalRow(**{**row, "received": row["received"].astimezone(UTC)})


def _check_journal(rows: list[JournalRow], acknowledged: Iterable[Acknowledged], verdict: Verdict) -> None:
    if [row.seq for row in rows] != list(range(1, len(rows) + 1)):
        verdict.differences.append("seq has gaps or repeats")
    by_seq = {row.seq: row for row in rows}
    keys = [row.idempotency_key for row in rows]
    if len(set(keys)) != len(keys):
        verdict.differences.append("a batch is in the journal twice")
    for batch in acknowledged:
        row = by_seq.get(batch.seq)
        if row is None or row.digest != batch.digest or row.records != batch.records:
            verdict.differences.append(f"acknowledged batch {batch.key} (seq {batch.seq}) is missing or altered")


def _undisturbed(tenant: TenantId, rows: list[JournalRow], packs: dict[str, bytes]) -> list[BatchOutput]:
    loaded: dict[str, RuleSet] = {}

    def resolve(digest: str) -> RuleSet:
        if digest not in loaded:
            loaded[digest] = load_rule_set(unpack(packs[digest]))
        return loaded[digest]

    detector = TenantDetector(tenant, resolve, EwmaModel)
    return [detector.observe(row.batch()) for row in rows]


async def _check_store(
    connection: asyncpg.Connection[Any], tenant: UUID, outputs: list[BatchOutput], verdict: Verdict
) -> None:
    records = {
        (item.record.ref.seq, item.record.ref.position): sha256(canonical_json(item.record)).hexdigest()
        for output in outputs
        for item in output.records
    }
    stored = [
        ((row["seq"], row["position"]), sha256(row["record"].encode()).hexdigest())
        for row in await connection.fetch(_RECORDS, tenant)
    ]
    verdict.records = len(stored)
    _compare("records", list(records.items()), stored, verdict)

    events = {event.id: event_row(TenantId(tenant), event) for output in outputs for event in output.events}
    verdict.events = len(events)
    _compare("events", list(events.values()), await connection.fetch(_EVENTS, tenant), verdict)

    incidents = [incident_row(TenantId(tenant), incident) for incident in newest_incidents(outputs)]
    verdict.incidents = len(incidents)
    _compare("incidents", incidents, await connection.fetch(_INCIDENTS, tenant), verdict)
    members = list(zip(*member_columns(outputs), strict=True))
    _compare("members of incidents", members, await connection.fetch(_MEMBERS, tenant), verdict)
    for span, columns in rollup_columns(outputs).items():
        expected = list(zip(*columns, strict=True))
        _compare(f"rollups of {span}", expected, await connection.fetch(_ROLLUPS[span], tenant), verdict)
    parked: Counter[tuple[str, str]] = Counter()
    for item in (item for output in outputs for item in output.poison):
        parked[item.stage, item.subject] += item.count
    dead = [(stage, subject, count) for (stage, subject), count in parked.items()]
    _compare("dead letters", dead, await connection.fetch(_DEAD, tenant), verdict)


def _compare(what: str, expected: Iterable[Iterable[Any]], stored: Iterable[Iterable[Any]], verdict: Verdict) -> None:
    wanted = sorted(repr([_plain(value) for value in row]) for row in expected)
    found = sorted(repr([_plain(value) for value in row]) for row in stored)
    if wanted == found:
        return
    missing = [row for row in wanted if row not in set(found)]
    extra = [row for row in found if row not in set(wanted)]
    verdict.differences.append(
        f"{what}: {len(wanted)} expected, {len(found)} stored; missing {missing[:2]}, not expected {extra[:2]}"
    )


def _plain(value: Any) -> Any:
    """One form for what the driver and the core write differently: JSON by content, single precision, times, ids."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, float):
        return struct.unpack("f", struct.pack("f", value))[0]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str) and value[:1] in {"{", "["}:
        try:
            return json.dumps(json.loads(value), sort_keys=True)
        except ValueError:
            return value
    if hasattr(value, "astimezone"):
        return value.astimezone(UTC).isoformat()
    return value
