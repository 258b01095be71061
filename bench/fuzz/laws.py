"""What must hold for any bytes at all: refused with a reason, or counted, decoded, judged and stored alike."""

from __future__ import annotations

from typing import Literal, get_args
from uuid import UUID

import orjson

from detect.batch import Batch
from detect.inflate import BodyEncoding, inflate
from detect.normalize import default_normalizer
from detect.otlp import UndecodableBatch, count_records, decode
from detect.record import TenantId, canonical_json
from detect.sigma import RuleSet
from detect.tenant import TenantDetector
from models.ewma import EwmaModel

RECEIVED_NS = 1_764_547_200_000_000_000
INFLATE_LIMIT = 1 << 20
_TENANT = TenantId(UUID(int=1))
_NORMALIZER = default_normalizer()


def otlp_law(kind: Literal["otlp_protobuf", "otlp_json"], payload: bytes) -> int:
    """Either the batch is refused at the door, or everything behind the door can read it; the number of records.

    The door counts (`count_records`) and the detector decodes later, when nobody can be told any more: whatever the
    door lets in must decode to as many records, each with a canonical form that is valid JSON in UTF-8.
    """
    batch = Batch(1, RECEIVED_NS, kind, payload)
    try:
        counted = count_records(kind, payload)
    except UndecodableBatch as refusal:
        assert str(refusal)
        return 0
    records = decode(batch)
    assert len(records) == counted
    for position, record in enumerate(records):
        assert record.ref.position == position
        orjson.loads(canonical_json(record))
        _NORMALIZER.normalize(record)
    return counted


def detector_law(kind: Literal["otlp_protobuf", "otlp_json"], payload: bytes) -> None:
    """A detector takes any journal row: it judges or parks, and two detectors come to the same state, byte for byte."""
    batch = Batch(1, RECEIVED_NS, kind, payload)
    states = []
    for _ in range(2):
        detector = TenantDetector(_TENANT, _no_rules, EwmaModel)
        output = detector.observe(batch)
        assert output.seq == 1
        states.append(detector.snapshot())
    assert states[0] == states[1]


def inflate_law(body: bytes) -> None:
    """Inflating ends with at most the limit, or with a ValueError that says why; never with more memory than that."""
    for encoding in get_args(BodyEncoding):
        try:
            assert len(inflate(body, encoding, INFLATE_LIMIT)) <= INFLATE_LIMIT
        except ValueError as refusal:
            assert str(refusal)


def _no_rules(digest: str) -> RuleSet:
    raise LookupError(digest)
