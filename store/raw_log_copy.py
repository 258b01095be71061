"""Records as PostgreSQL's binary COPY wants them, made while they are sent.

Encoding is done here and not by the driver: its encoder takes tuples of Python values and costs as much again as making
them, half of it for the array. The format is that of the PostgreSQL manual, COPY, "Binary Format": a header, per row
the number of columns and each value with its length in front, a trailer; integers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache

from detect.batch import BatchOutput
from detect.record import Entity, EntityKind, Logsource, Nanoseconds, NormalizedRecord, TenantId, canonical_json
from store.detection_rows import entity_label, logsource_label
from store.values import nanoseconds, text, timestamp

RAW_LOG_COLUMNS = (
    "tenant_id",
    "seq",
    "position",
    "received",
    "time",
    "time_mark",
    "severity",
    "logsource",
    "entities",
    "message",
    "record",
)
_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
# Columns up to `time`, each with its length, and the length of `time_mark`.
_FIXED = struct.Struct(">hi16siqiiiqiqi").pack
_SEVERITY = struct.Struct(">ihi").pack
_LENGTH = struct.Struct(">i").pack
# One dimension, no NULLs, elements of type text (oid 25), so many of them, counted from 1.
_ARRAY = struct.Struct(">iiiiii").pack
_EMPTY_ARRAY = struct.pack(">iiii", 12, 0, 0, 25)
_EPOCH_US = nanoseconds(datetime.fromisoformat("2000-01-01T00:00:00+00:00")) // 1000
_FIRST_US = nanoseconds(timestamp(-(2**70))) // 1000
_LAST_US = nanoseconds(timestamp(2**70)) // 1000
_CHUNK_BYTES = 256 * 1024


async def copy_stream(
    tenant: TenantId, outputs: Sequence[BatchOutput], received: Mapping[int, datetime]
) -> AsyncIterator[bytes]:
    """The bytes of COPY (RAW_LOG_COLUMNS) for all records of the outputs, in pieces of about 256 KiB.

    `record` is canonical_json, byte for byte, so that its digest can be recomputed.
    """
    parts, size = [_HEADER], 0
    for output in outputs:
        received_us = _postgres_time(nanoseconds(received[output.seq]))
        for item in output.records:
            row = _row(tenant.bytes, item, received_us)
            parts.append(row)
            size += len(row)
            if size >= _CHUNK_BYTES:
                yield b"".join(parts)
                parts, size = [], 0
    parts.append(_TRAILER)
    yield b"".join(parts)


def _row(tenant: bytes, item: NormalizedRecord, received_us: int) -> bytes:
    record = item.record
    seq, position = record.ref
    mark = record.time_mark.encode()
    logsource = _logsource(item.logsource)
    message = text(item.message).encode()
    body = canonical_json(record)
    time_us = _postgres_time(record.time_ns)
    severity = min(max(record.severity_number, 0), 24)
    return b"".join(
        (
            _FIXED(11, 16, tenant, 8, seq, 4, position, 8, received_us, 8, time_us, len(mark)),
            mark,
            _SEVERITY(2, severity, len(logsource)),
            logsource,
            _entities(item.entities),
            _LENGTH(len(message)),
            message,
            _LENGTH(len(body)),
            body,
        )
    )


def _postgres_time(value: Nanoseconds) -> int:
    """Microseconds since 2000, of the same moment that store.values.timestamp gives."""
    return min(max(value // 1000, _FIRST_US), _LAST_US) - _EPOCH_US


def _entities(entities: Sequence[Entity]) -> bytes:
    if not entities:
        return _EMPTY_ARRAY
    elements = dict.fromkeys([_element(kind, value) for kind, value, _ in entities])
    content = b"".join(elements)
    return _ARRAY(20 + len(content), 1, 0, 25, len(elements), 1) + content


# The same hosts, users, addresses and sources come again and again.
@lru_cache(maxsize=8192)
def _element(kind: EntityKind, value: str) -> bytes:
    label = entity_label(Entity(kind, value)).encode()
    return _LENGTH(len(label)) + label


@lru_cache(maxsize=512)
def _logsource(logsource: Logsource) -> bytes:
    return logsource_label(logsource).encode()
