"""Judging again what was parked as a dead letter: the control row that asks for it, and how it went.

The row carries what is to be judged, so the judgement stays a function of the journal alone: nothing has to be looked
up while a detector replays, and the original batch may be pruned. What a retry causes cites the original place of the
record, and its events have the ids that they would have had, so repeating one changes nothing.
"""

from __future__ import annotations

import gzip
from typing import Final, Literal

import msgspec

from detect.batch import Batch, BatchKind, Stage
from detect.inflate import inflate
from detect.otlp import UndecodableBatch, decode
from detect.otlp.encode import json_request
from detect.positions import in_ranges, ranges_text
from detect.record import LogRecord, Nanoseconds, RecordRef

RETRYABLE: Final[frozenset[Stage]] = frozenset({"decode", "normalize", "sigma"})
"""Stages that look at one record or batch alone. What failed later failed over counts of many records."""

_MAX_BYTES = 2**30


class NotRetryable(ValueError):
    """What the dead letter stands for cannot be judged again; the message says what to do instead."""


class Parked(msgspec.Struct, frozen=True):
    """A dead letter by its place. It stands for `count` records of the batch: those at `positions`, or any of them
    where `positions` is empty though there are several."""

    seq: int
    position: int
    stage: Stage
    subject: str
    count: int = 1
    positions: str = ""


class RetryControl(msgspec.Struct, tag="retry", tag_field="type", frozen=True):
    """Control row: judge this again. `payload` is a request of `kind`, compressed with gzip.

    With `positions` it holds those records alone, in their order; without, it is the whole of the original batch.
    """

    seq: int
    position: int
    stage: Literal["decode", "normalize", "sigma"]
    subject: str
    received_ns: Nanoseconds
    kind: BatchKind
    payload: bytes
    positions: str = ""

    @property
    def whole(self) -> bool:
        """Whether it is the whole batch that failed, so that none of its records has been seen."""
        return self.position < 0

    def batch(self) -> Batch:
        """The original batch, or a part of it. Raises ValueError for a payload that does not inflate."""
        return Batch(self.seq, self.received_ns, self.kind, inflate(self.payload, "gzip", _MAX_BYTES))

    def records(self, future_tolerance_ns: Nanoseconds) -> list[LogRecord]:
        """The records to judge again, at their original places."""
        decoded = decode(self.batch(), future_tolerance_ns)
        if not self.positions:
            return decoded
        places = sorted(in_ranges(self.positions))
        return [
            msgspec.structs.replace(record, ref=RecordRef(self.seq, place))
            for record, place in zip(decoded, places, strict=True)
        ]


def retry_control(parked: Parked, batch: Batch) -> bytes:
    """The body of the control row that has a dead letter of this batch judged again. Raises NotRetryable."""
    if parked.stage not in RETRYABLE:
        raise NotRetryable(
            f"what failed at the stage {parked.stage} are counts over many records, not one that could be judged "
            "again: `trustsoc replay` shows what a mended version says; discard this letter"
        )
    kind, payload, positions = batch.kind, batch.payload, ""
    if parked.position >= 0:
        kind, payload, positions = _chosen(parked, batch)
    control = RetryControl(
        seq=parked.seq,
        position=parked.position,
        stage=parked.stage,  # type: ignore[arg-type]  # one of RETRYABLE, as checked above
        subject=parked.subject,
        received_ns=batch.received_ns,
        kind=kind,
        payload=gzip.compress(payload, mtime=0),
        positions=positions,
    )
    return msgspec.json.encode(control)


def parked_records(parked: Parked, batch: Batch) -> list[LogRecord]:
    """The records that a dead letter stands for. Raises NotRetryable when the batch cannot be decoded."""
    try:
        decoded = decode(batch)
    except UndecodableBatch as error:
        raise NotRetryable(f"the batch cannot be decoded ({error}): send it again corrected") from error
    if parked.count > 1 and not parked.positions:
        return decoded
    wanted = in_ranges(parked.positions) or {parked.position}
    found = [record for record in decoded if record.ref.position in wanted]
    if not found:
        raise NotRetryable(f"batch {parked.seq} has no record {parked.position}")
    return found


def _chosen(parked: Parked, batch: Batch) -> tuple[BatchKind, bytes, str]:
    records = parked_records(parked, batch)
    return "otlp_json", json_request(records), ranges_text(record.ref.position for record in records)
