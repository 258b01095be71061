"""A tenant's state at one seq, taken in little time: nothing in it changes any more."""

from __future__ import annotations

from typing import Any, NamedTuple

from detect.event import Evidence
from detect.sigma.detector import CapturedSigma
from detect.snapshot import FORMAT, pack_snapshot
from detect.snapshot_evidence import evidence_columns, in_journal_order


class CapturedState(NamedTuple):
    """The state after the batch `seq`. Correlations, by far the largest part, are held as they were and written out
    by `pack`; the rest is in `content` as it will stand in the snapshot, but for the windows' evidence."""

    seq: int
    content: dict[str, Any]
    sigma: CapturedSigma | None

    def pack(self) -> bytes:
        """The snapshot."""
        windows, held = self.content["windows"], set[Evidence]()
        held.update(windows["evidence"])
        if self.sigma is not None:
            held.update(*self.sigma.evidence())
        ordered = in_journal_order(held)
        numbers = {evidence: number for number, evidence in enumerate(ordered)}
        changed = {
            "sigma": None if self.sigma is None else self.sigma.written(numbers),
            "windows": windows | {"evidence": [numbers[evidence] for evidence in windows["evidence"]]},
            "evidence": evidence_columns(ordered),
        }
        return pack_snapshot(FORMAT, self.content | changed)
