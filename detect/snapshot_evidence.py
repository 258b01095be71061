"""Evidence in a snapshot, written once: correlations and windows name a record's evidence by number.

A record that meets rules of several correlations and counts in windows stands in each of them with its digest and
message. In a snapshot all of it stands in one table, in the order of the journal and by columns, which compresses best.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import Any

from detect.event import Evidence
from detect.record import RecordRef

_DIGEST_BYTES = 32
_BY_ALL = attrgetter("ref", "digest", "time_ns", "message")


def in_journal_order(evidence: Collection[Evidence]) -> list[Evidence]:
    """The evidence ordered by the place of its record; what else it says settles ties."""
    if len({entry.ref for entry in evidence}) < len(evidence):
        return sorted(evidence, key=_BY_ALL)
    # Whole numbers compare several times faster than what they are made of, and ties are rare.
    return sorted(evidence, key=lambda entry: entry.ref.seq << 64 | entry.ref.position)


def evidence_columns(ordered: list[Evidence]) -> dict[str, Any]:
    """Times as differences; digests (SHA-256 in hex) as one run of bytes, for they do not compress."""
    times = [entry.time_ns for entry in ordered]
    return {
        "seqs": [entry.ref.seq for entry in ordered],
        "positions": [entry.ref.position for entry in ordered],
        "digests": bytes.fromhex("".join([entry.digest for entry in ordered])),
        "times": times[:1] + [after - before for before, after in pairwise(times)],
        "messages": [entry.message for entry in ordered],
    }


def read_columns(columns: dict[str, Any]) -> list[Evidence]:
    """The inverse of evidence_columns. KeyError, TypeError or ValueError for what is no such content."""
    digests = columns["digests"].hex()
    width = 2 * _DIGEST_BYTES
    return [
        Evidence(RecordRef(seq, position), digests[number * width : (number + 1) * width], time_ns, message)
        for number, (seq, position, time_ns, message) in enumerate(
            zip(columns["seqs"], columns["positions"], accumulate(columns["times"]), columns["messages"], strict=True)
        )
    ]
