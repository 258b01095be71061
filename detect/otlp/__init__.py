"""From an OTLP logs request to typed records: protobuf through upb, JSON through typed structs.

Both encodings give the same records. What is kept and how odd input is read:

* a duplicate attribute key: the last one wins (OTLP forbids duplicates, senders write them all the same);
* an empty AnyValue is None; NaN and infinities stay floats (`canonical_json` writes them as null);
* text that is not UTF-8, and lone surrogates in JSON escapes, become U+FFFD, so one broken line costs no other record;
* nested values deeper than MAX_DEPTH make the batch undecodable; so do numbers out of the range of their field.
"""

from __future__ import annotations

from detect.batch import Batch, BatchKind
from detect.otlp.errors import UndecodableBatch
from detect.otlp.json_request import json_records, parse_json
from detect.otlp.protobuf_request import count_protobuf, protobuf_records
from detect.otlp.values import MAX_DEPTH
from detect.record import LogRecord, Nanoseconds

DEFAULT_FUTURE_TOLERANCE_NS: Nanoseconds = 300 * 10**9


def count_records(kind: BatchKind, payload: bytes) -> int:
    """The number of log records in a request, after a full check; a control row holds none.

    Raises UndecodableBatch for everything that `decode` would refuse.
    """
    match kind:
        case "otlp_protobuf":
            return count_protobuf(payload)
        case "otlp_json":
            return len(parse_json(payload))
        case "control":
            return 0


def decode(batch: Batch, future_tolerance_ns: Nanoseconds = DEFAULT_FUTURE_TOLERANCE_NS) -> list[LogRecord]:
    """The records of a batch in the order of the request; a control row gives none.

    A record without a time takes its observed time, and without that the batch's receive time (mark `unset`). A time
    later than receive time plus the tolerance is clamped to the receive time (mark `future`).
    """
    match batch.kind:
        case "otlp_protobuf":
            return protobuf_records(batch, future_tolerance_ns)
        case "otlp_json":
            return json_records(batch, future_tolerance_ns)
        case "control":
            return []


__all__ = ["DEFAULT_FUTURE_TOLERANCE_NS", "MAX_DEPTH", "UndecodableBatch", "count_records", "decode"]
