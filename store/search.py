"""The questions that analysts ask: events, incidents, logs, one record. Rows come back ready for JSON.

Every search is bounded: a page of at most 1,000 rows, a range of time, and a statement timeout. A search of logs is
bounded by the rows that it reads as well: there is no index over text (docs/decisions/0014), so it reads so many
records at most, newest first, says how far back it came, and its cursor goes on from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from uuid import UUID

import asyncpg
import orjson

from detect.event import SEVERITIES, Severity
from detect.incident import IncidentState
from detect.record import Entity, EntityKind, RecordRef
from store.detection_rows import entity_label
from store.paging import Page, decode_time_and_id, decode_time_and_ref, encode_cursor, page_size
from store.postgres import TenantTransaction
from store.queries import sql
from store.values import iso_time, json_text, key_text, text

STATEMENT_TIMEOUT_MS = 10_000
DEFAULT_RANGE = timedelta(hours=24)
LONGEST_LOG_RANGE = timedelta(days=92)
_FEWER = 20
TIMELINE_LIMIT = 1000

_EVER_FROM = datetime(1, 1, 1, tzinfo=UTC)
_EVER_TO = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
# A record's time is clamped to its receipt and some skew, so a partition older than this holds nothing of the range.
_RECEIVED_BEFORE_TIME = timedelta(days=1)
_JSON_COLUMNS = frozenset({"entities", "evidence", "matched", "attributes", "repeat_evidence"})
_ENTITY_KINDS = frozenset(get_args(EntityKind))
_TERM_CHARACTERS = 1024


class SearchTimedOut(Exception):
    """The search took longer than allowed."""

    def __init__(self) -> None:
        super().__init__("the search took too long: narrow the time range or add a filter")


class InvalidFilter(ValueError):
    """A filter of a search cannot be understood; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events. Times by event time, `start` inclusive, `end` exclusive; `entity` is `kind:value`."""

    start: datetime | None = None
    end: datetime | None = None
    severity_at_least: Severity = "informational"
    rule_id: str | None = None
    entity: str | None = None
    incident_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class IncidentFilter:
    """Which incidents, by the time of their last event."""

    start: datetime | None = None
    end: datetime | None = None
    severity_at_least: Severity = "informational"
    state: IncidentState | None = None


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which records, by event time, over at most LONGEST_LOG_RANGE.

    `text` is looked for anywhere in the record's canonical JSON, letter case aside: any substring of its body, of a
    value or of the name of an attribute; words are not told apart. `entity` is one of the record's own, `kind:value`.
    """

    start: datetime
    end: datetime
    text: str | None = None
    entity: str | None = None

    @classmethod
    def last(cls, now: datetime, *, text: str | None = None, entity: str | None = None) -> LogFilter:
        """The default range: the 24 hours up to now (inclusive)."""
        return cls(now - DEFAULT_RANGE, now + timedelta(microseconds=1), text, entity)


@dataclass(frozen=True, slots=True)
class ScanBounds:
    """What one search of logs may cost: records that it reads, and milliseconds of one try."""

    rows: int = 50_000
    milliseconds: int = 5_000


@dataclass(frozen=True, slots=True)
class LogPage(Page):
    """A page of records. `searched_to` is set when the search stopped before its range was read: everything of that
    event time and later has been, and `next_cursor` goes on, though the page may hold few rows or none.
    """

    searched_to: str | None


async def search_events(tx: TenantTransaction, wanted: EventFilter, limit: int, cursor: str | None = None) -> Page:
    """Events, newest first. Raises InvalidFilter, InvalidCursor, SearchTimedOut."""
    after = decode_time_and_id("events", cursor)
    entity = None if wanted.entity is None else _entity(wanted.entity)
    size = page_size(limit)
    async with time_bounded(tx):
        rows = await tx.connection.fetch(
            sql("search_events"),
            *_range(wanted.start, wanted.end),
            _severities(wanted.severity_at_least),
            None if wanted.rule_id is None else text(wanted.rule_id),
            entity and entity.kind,
            entity and key_text(entity.value, 512),
            wanted.incident_id,
            *after,
            size + 1,
        )
    cursor_after = None
    if len(rows) > size:
        cursor_after = encode_cursor("events", rows[size - 1]["time"], rows[size - 1]["event_id"])
    return Page([_row(row) for row in rows[:size]], cursor_after)


async def get_event(tx: TenantTransaction, event_id: UUID) -> dict[str, Any] | None:
    """One event."""
    row = await tx.connection.fetchrow(sql("search_event"), event_id)
    return None if row is None else _row(row)


async def search_incidents(
    tx: TenantTransaction, wanted: IncidentFilter, limit: int, cursor: str | None = None
) -> Page:
    """Incidents, the one with the newest event first. Raises InvalidCursor, SearchTimedOut."""
    after = decode_time_and_id("incidents", cursor)
    size = page_size(limit)
    async with time_bounded(tx):
        rows = await tx.connection.fetch(
            sql("search_incidents"),
            *_range(wanted.start, wanted.end),
            _severities(wanted.severity_at_least),
            wanted.state,
            *after,
            size + 1,
        )
    cursor_after = None
    if len(rows) > size:
        cursor_after = encode_cursor("incidents", rows[size - 1]["last_time"], rows[size - 1]["incident_id"])
    return Page([_row(row) for row in rows[:size]], cursor_after)


async def get_incident(
    tx: TenantTransaction, incident_id: UUID, timeline_limit: int = TIMELINE_LIMIT
) -> dict[str, Any] | None:
    """One incident with its `timeline`: per member the place, stage and reason, and the whole event."""
    row = await tx.connection.fetchrow(sql("search_incident"), incident_id)
    if row is None:
        return None
    async with time_bounded(tx):
        members = await tx.connection.fetch(sql("search_timeline"), incident_id, timeline_limit)
    timeline = []
    for member in members:
        event = _row(member)
        timeline.append({key: event.pop(key) for key in ("place", "stage", "reason")} | {"event": event})
    return _row(row) | {"timeline": timeline}


async def search_logs(
    tx: TenantTransaction,
    wanted: LogFilter,
    limit: int,
    cursor: str | None = None,
    bounds: ScanBounds = ScanBounds(),
) -> LogPage:
    """Records, newest first; reads at most `bounds.rows` of them, whatever they hold, and a twentieth of that when
    the disk is too slow for them. Raises InvalidFilter, InvalidCursor, SearchTimedOut.
    """
    arguments = _log_arguments(wanted, cursor)
    size = page_size(limit)
    try:
        return await _scan_logs(tx, arguments, size, bounds)
    except SearchTimedOut:
        fewer = ScanBounds(max(1, bounds.rows // _FEWER), bounds.milliseconds)
        return await _scan_logs(tx, arguments, size, fewer)


def _log_arguments(wanted: LogFilter, cursor: str | None) -> tuple[Any, ...]:
    """The arguments of `search_logs` before the counts of rows."""
    after = decode_time_and_ref("logs", cursor)
    label = None if wanted.entity is None else entity_label(_entity(wanted.entity))
    start, end = _range(wanted.start, wanted.end)
    if end - start > LONGEST_LOG_RANGE:
        raise InvalidFilter(f"a search of logs spans at most {LONGEST_LOG_RANGE.days} days: search in several steps")
    received_from = max(start, _EVER_FROM + _RECEIVED_BEFORE_TIME) - _RECEIVED_BEFORE_TIME
    pattern = None if wanted.text is None else like_pattern(wanted.text)
    return start, end, received_from, pattern, label, *after


async def _scan_logs(tx: TenantTransaction, arguments: tuple[Any, ...], size: int, bounds: ScanBounds) -> LogPage:
    # The savepoint lets the transaction go on after a statement that ran out of time.
    async with time_bounded(tx, bounds.milliseconds), tx.connection.transaction():
        rows = await tx.connection.fetch(sql("search_logs"), *arguments, size + 1, bounds.rows)
    found = [row for row in rows if row["matches"]]
    items = [_record(row) for row in found[:size]]
    if len(found) > size:
        return LogPage(items, _log_cursor(found[size - 1]), None)
    if rows and rows[-1]["place"] == bounds.rows:
        return LogPage(items, _log_cursor(rows[-1]), iso_time(rows[-1]["time"]))
    return LogPage(items, None, None)


def _log_cursor(row: asyncpg.Record) -> str:
    return encode_cursor("logs", row["time"], row["seq"], row["position"])


async def get_record(tx: TenantTransaction, ref: RecordRef) -> dict[str, Any] | None:
    """One record with `digest`, the SHA-256 of the stored text, to hold against what evidence quotes."""
    if not (0 <= ref.seq < 2**63 and 0 <= ref.position < 2**31):
        return None
    row = await tx.connection.fetchrow(sql("search_record"), ref.seq, ref.position)
    return None if row is None else _record(row)


async def count_status(tx: TenantTransaction) -> dict[str, Any]:
    """Counts of the tenant: batches, judged (batches), records, events, incidents by state, advisories and so on."""
    async with time_bounded(tx):
        counts = await tx.connection.fetchrow(sql("status_counts"))
        states = await tx.connection.fetch(sql("status_incidents"))
    by_state = dict.fromkeys(get_args(IncidentState), 0) | {row["state"]: row["incidents"] for row in states}
    return dict(counts or {}) | {"incidents": by_state}


def like_pattern(term: str) -> str:
    """The LIKE pattern that finds a term inside JSON text: escaped as JSON first, then for LIKE."""
    inside_json = json_text(term[:_TERM_CHARACTERS])[1:-1]
    escaped = inside_json.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


@asynccontextmanager
async def time_bounded(tx: TenantTransaction, milliseconds: int = STATEMENT_TIMEOUT_MS) -> AsyncIterator[None]:
    """From here to the end of the transaction a statement may take so long; within the block SearchTimedOut says so."""
    await tx.connection.execute(sql("limit_statement_time"), str(milliseconds))
    try:
        yield
    except asyncpg.QueryCanceledError as error:
        raise SearchTimedOut from error


def _range(start: datetime | None, end: datetime | None) -> tuple[datetime, datetime]:
    start, end = start or _EVER_FROM, end or _EVER_TO
    if start.tzinfo is None or end.tzinfo is None:
        raise InvalidFilter("a time needs a time zone: write it as 2024-05-01T12:00:00Z")
    return start, end


def _severities(at_least: Severity) -> list[str]:
    return list(SEVERITIES[SEVERITIES.index(at_least) :])


def _entity(label: str) -> Entity:
    kind, separator, value = label.partition(":")
    if not separator or kind not in _ENTITY_KINDS or not value:
        kinds = ", ".join(sorted(_ENTITY_KINDS))
        raise InvalidFilter(f"an entity is written as KIND:VALUE, KIND one of {kinds}")
    return Entity(kind, value)  # type: ignore[arg-type]  # checked against the Literal's own members


def _row(row: asyncpg.Record) -> dict[str, Any]:
    return {key: _value(key, value) for key, value in row.items()}


def _value(key: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return iso_time(value)
    if isinstance(value, UUID):
        return str(value)
    if key in _JSON_COLUMNS and isinstance(value, str):
        return orjson.loads(value)
    return value


def _record(row: asyncpg.Record) -> dict[str, Any]:
    stored: str = row["record"]
    shown = {name: value for name, value in _row(row).items() if name not in {"matches", "place"}}
    return shown | {
        "ref": str(RecordRef(row["seq"], row["position"])),
        "record": orjson.loads(stored),
        "digest": hashlib.sha256(stored.encode()).hexdigest(),
    }
