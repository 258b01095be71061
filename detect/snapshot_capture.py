"""A tenant's state at one seq, taken in little time and packed at leisure: nothing in it changes any more."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

from detect.event import Evidence
from detect.sigma.detector import CapturedSigma
from detect.snapshot import FORMAT, pack_snapshot
from detect.snapshot_evidence import evidence_columns, in_journal_order

_PART = 10_000


def _go_on() -> None:
    """Nobody waits."""


class CapturedState(NamedTuple):
    """The state after the batch `seq`. Correlations, by far the largest part, are held as they were and written out
    by `pack`; the rest is in `content` as it will stand in the snapshot, but for the windows' evidence."""

    seq: int
    content: dict[str, Any]
    sigma: CapturedSigma | None

    def pack(self, between: Callable[[], None] = _go_on) -> bytes:
        """The snapshot. May run in another thread than the detector, which goes on meanwhile; `between` is called
        between the parts of the work, to let others have their turn."""
        windows, held = self.content["windows"], set[Evidence]()
        held.update(windows["evidence"])
        cited = iter(() if self.sigma is None else self.sigma.evidence())
        while part := list(islice(cited, _PART)):
            held.update(*part)
            between()
        ordered = in_journal_order(held)
        between()
        numbers = {evidence: number for number, evidence in enumerate(ordered)}
        changed = {
            "sigma": None if self.sigma is None else self.sigma.written(numbers, between),
            "windows": windows | {"evidence": [numbers[evidence] for evidence in windows["evidence"]]},
            "evidence": evidence_columns(ordered),
        }
        between()
        return pack_snapshot(FORMAT, self.content | changed)
