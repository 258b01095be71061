"""The books of a hunt: every line that was read is accounted for, and what went wrong has a name."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from detect.record import Nanoseconds
from detect.sigma.coverage import Arrivals
from hunt.inputs import NamedError
from hunt.judge import Result

MAX_NAMED_ERRORS: Final = 1000


@dataclass
class HuntBooks:
    """What became of everything. Lines: those that carry records, blank ones, and skipped ones by reason.

    A line carries one record, but an OTLP request many. Records: those judged, those outside the time asked for, and
    those that a defect kept from being judged.
    """

    files: int = 0
    files_failed: int = 0
    lines: int = 0
    carrying: int = 0
    blank: int = 0
    mended: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    records: int = 0
    judged: int = 0
    outside: int = 0
    failed: int = 0
    found: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    faults: dict[str, tuple[int, str]] = field(default_factory=dict)
    arrivals: Arrivals | None = None
    costs: dict[str, tuple[int, int]] = field(default_factory=dict)
    errors: list[NamedError] = field(default_factory=list)
    error_count: int = 0
    latest_ns: Nanoseconds = 0
    seconds: float = 0.0

    @property
    def balanced(self) -> bool:
        """Whether every line and every record is accounted for."""
        lines = self.carrying + self.blank + self.skipped.total()
        return self.lines == lines and self.records == self.judged + self.outside + self.failed

    def add(self, result: Result, path: str, first_line: int) -> None:
        """Enters the result of a block that begins at that line of its file, counted from 1."""
        for name in ("lines", "carrying", "blank", "mended", "records", "judged", "outside", "failed"):
            setattr(self, name, getattr(self, name) + getattr(result, name))
        self.skipped.update(result.bad)
        for rule_id, (times, nanoseconds) in result.costs.items():
            known = self.costs.get(rule_id, (0, 0))
            self.costs[rule_id] = known[0] + times, known[1] + nanoseconds
        if result.arrivals is not None:
            self.arrivals = self.arrivals or Arrivals()
            self.arrivals.merge(Arrivals.restore(result.arrivals))
        self.latest_ns = max(self.latest_ns, result.latest_ns)
        for line, reason in result.named:
            self._name(NamedError(path, reason, first_line + line))
        for line, reason in result.odd:
            self._name(NamedError(path, f"the record could not be judged: {reason}", first_line + line))
        self.error_count += sum(result.bad.values()) - len(result.named) + result.failed - len(result.odd)
        for rule_id, (count, error) in result.faults.items():
            before, first = self.faults.get(rule_id, (0, error))
            self.faults[rule_id] = (before + count, first)
        if result.failure:
            self.fail(NamedError(path, result.failure))

    def fail(self, error: NamedError) -> None:
        """A file that was not read, or not to its end."""
        self.files_failed += 1
        self._name(error)

    def _name(self, error: NamedError) -> None:
        self.error_count += 1
        if len(self.errors) < MAX_NAMED_ERRORS:
            self.errors.append(error)

    def as_json(self) -> dict[str, Any]:
        """The books for programs."""
        return {
            "files": self.files,
            "files_failed": self.files_failed,
            "lines": self.lines,
            "lines_with_records": self.carrying,
            "blank": self.blank,
            "skipped": dict(self.skipped),
            "mended": self.mended,
            "records": self.records,
            "judged": self.judged,
            "outside_time": self.outside,
            "failed": self.failed,
            "found": dict(self.found),
            "faulty_rules": {rule_id: count for rule_id, (count, _) in self.faults.items()},
            "seconds": round(self.seconds, 3),
            "balanced": self.balanced,
        }
