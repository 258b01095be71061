"""Which rules can fire at all: for each, whether its log source ever arrived and which of its fields never did.

`Arrivals` counts what arrived, in bounded memory; several of them (one for each process or file) can be merged and
carried as plain JSON values. `coverage_of` holds the rules against it. Its verdict errs to one side only: a rule that
is said not to be able to fire cannot, on records like those that arrived; the others may.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from detect.event import Severity
from detect.record import Logsource, NormalizedRecord
from detect.sigma.logsource import applies
from detect.sigma.rule import RuleSet, SigmaCorrelation, SigmaRule
from detect.sigma.syntax import And, Atom, Expression, FieldReference, Not, Or, atoms

MAX_SOURCES: Final = 1024
"""Log sources told apart; senders choose services, so the records of later ones are only counted."""
MAX_FIELDS: Final = 2048
"""Field names kept for each log source."""
MAX_NAME_CHARACTERS: Final = 256
MAX_SHAPES: Final = 4096
MAX_SHAPE_CHARACTERS: Final = 4096
VERSION: Final = 1
_MESSAGE: Final = "message"

Verdict = Literal["can fire", "no log source", "fields missing"]
VERDICTS: Final[tuple[Verdict, ...]] = ("can fire", "no log source", "fields missing")


class SourceArrivals:
    """What arrived of one log source: how many records, and every field name that was among them."""

    __slots__ = ("fields", "records", "truncated")

    def __init__(self) -> None:
        self.records = 0
        self.fields: set[str] = set()
        self.truncated = False

    def learn(self, names: Iterable[str]) -> None:
        """Adds field names, up to the bound; `truncated` says that some were left out."""
        for name in names:
            if len(name) > MAX_NAME_CHARACTERS or (len(self.fields) >= MAX_FIELDS and name not in self.fields):
                self.truncated = True
            else:
                self.fields.add(name)


class Arrivals:
    """An account of the records that arrived. A field has arrived when it was there, even if it was empty."""

    def __init__(self) -> None:
        self.sources: dict[Logsource, SourceArrivals] = {}
        self.uncounted = 0
        """Records of log sources beyond MAX_SOURCES, of which no fields are known."""
        self._shapes: set[tuple[Logsource, tuple[str, ...]]] = set()

    @property
    def records(self) -> int:
        """All records that were added."""
        return self.uncounted + sum(source.records for source in self.sources.values())

    def add(self, record: NormalizedRecord) -> None:
        """Counts a record. One of the same log source and names as one before costs one look-up."""
        logsource = record.logsource
        source = self.sources.get(logsource) or self._source(logsource)
        if source is None:
            self.uncounted += 1
            return
        source.records += 1
        shape = (logsource, tuple(record.fields))
        if shape in self._shapes:
            return
        source.learn(record.fields)
        if sum(map(len, shape[1])) <= MAX_SHAPE_CHARACTERS:
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()
            self._shapes.add(shape)

    def merge(self, other: Arrivals) -> None:
        """Takes over another account, as if its records had been added here."""
        self.uncounted += other.uncounted
        for logsource, theirs in other.sources.items():
            source = self.sources.get(logsource) or self._source(logsource)
            if source is None:
                self.uncounted += theirs.records
                continue
            source.records += theirs.records
            source.learn(theirs.fields)
            source.truncated = source.truncated or theirs.truncated

    def _source(self, logsource: Logsource) -> SourceArrivals | None:
        if len(self.sources) >= MAX_SOURCES or any(len(part) > MAX_NAME_CHARACTERS for part in logsource):
            return None
        return self.sources.setdefault(logsource, SourceArrivals())

    def snapshot(self) -> dict[str, Any]:
        """The account as plain JSON values."""
        return {
            "version": VERSION,
            "uncounted": self.uncounted,
            "sources": [
                [list(logsource), source.records, sorted(source.fields), source.truncated]
                for logsource, source in sorted(self.sources.items())
            ],
        }

    @classmethod
    def restore(cls, state: object) -> Arrivals:
        """The inverse of `snapshot`; raises ValueError for anything else."""
        if not isinstance(state, dict) or state.get("version") != VERSION:
            raise ValueError("not an account of arrivals in a version that this program reads")
        arrivals = cls()
        try:
            arrivals.uncounted = int(state["uncounted"])
            for parts, records, names, truncated in state["sources"]:
                source = arrivals.sources.setdefault(Logsource(*map(str, parts)), SourceArrivals())
                source.records += int(records)
                source.learn(map(str, names))
                source.truncated = source.truncated or bool(truncated)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the account of arrivals is damaged: {error}") from error
        return arrivals


@dataclass(frozen=True, slots=True)
class RuleCoverage:
    """One rule against what arrived.

    `records` came from its log source. `missing` are those of its fields that never came from there; where the rule
    cannot fire for that, `needed` are those of them that some arriving log source would have to have. For a
    correlation both are empty and `needed` names the rules without which it cannot fire.
    """

    rule_id: str
    title: str
    path: str
    level: Severity
    logsource: Logsource | None
    verdict: Verdict
    records: int
    missing: tuple[str, ...]
    needed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CoverageReport:
    """All rules in their order, then the correlations; `sources` with their records and how many rules each feeds."""

    rules: tuple[RuleCoverage, ...]
    sources: tuple[tuple[Logsource, int, int], ...]
    records: int
    uncounted: int

    def count(self, verdict: Verdict) -> int:
        """How many rules have this verdict."""
        return sum(rule.verdict == verdict for rule in self.rules)

    def as_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "records": self.records,
            "uncounted": self.uncounted,
            "verdicts": {verdict: self.count(verdict) for verdict in VERDICTS},
            "sources": [
                {**logsource._asdict(), "records": records, "rules": rules}
                for logsource, records, rules in self.sources
            ],
            "rules": [
                {
                    "id": rule.rule_id,
                    "title": rule.title,
                    "path": rule.path,
                    "level": rule.level,
                    "logsource": None if rule.logsource is None else rule.logsource._asdict(),
                    "verdict": rule.verdict,
                    "records": rule.records,
                    "missing": list(rule.missing),
                    "needed": list(rule.needed),
                }
                for rule in self.rules
            ],
        }


def coverage_of(rules: RuleSet, arrivals: Arrivals) -> CoverageReport:
    """Every rule of the set against what arrived."""
    routes: dict[Logsource, tuple[tuple[Logsource, SourceArrivals], ...]] = {}
    fed: dict[Logsource, int] = dict.fromkeys(arrivals.sources, 0)
    found: dict[str, RuleCoverage] = {}
    for rule in rules.rules:
        if rule.logsource not in routes:
            routes[rule.logsource] = tuple(
                (logsource, source)
                for logsource, source in arrivals.sources.items()
                if source.records and applies(rule.logsource, logsource)
            )
        for logsource, _ in routes[rule.logsource]:
            fed[logsource] += 1
        found[rule.id] = _rule_coverage(rule, [source for _, source in routes[rule.logsource]])
    for correlation in rules.correlations:
        found[correlation.id] = _correlation_coverage(correlation, found)
    ordered = sorted(arrivals.sources.items(), key=lambda item: (-item[1].records, item[0]))
    sources = tuple((logsource, source.records, fed[logsource]) for logsource, source in ordered)
    return CoverageReport(tuple(found.values()), sources, arrivals.records, arrivals.uncounted)


def _rule_coverage(rule: SigmaRule, sources: list[SourceArrivals]) -> RuleCoverage:
    named = tuple(dict.fromkeys(fields_of(rule.condition)))
    missing = tuple(name for name in named if not any(_has(source, name) for source in sources))
    needed: tuple[str, ...] = ()
    verdict: Verdict = "can fire" if sources else "no log source"
    if sources and not any(can_be_true(rule.condition, source) for source in sources):
        verdict = "fields missing"
        # Of the source that is nearest to what the rule wants.
        needed = min((tuple(name for name in named if not _has(source, name)) for source in sources), key=len)
    records = sum(source.records for source in sources)
    return RuleCoverage(rule.id, rule.title, rule.path, rule.level, rule.logsource, verdict, records, missing, needed)


def _correlation_coverage(rule: SigmaCorrelation, found: Mapping[str, RuleCoverage]) -> RuleCoverage:
    unable = tuple(source for source in rule.sources if source in found and found[source].verdict != "can fire")
    able = _can_correlate(rule, frozenset(rule.sources) - frozenset(unable))
    verdict: Verdict = "can fire" if able or not unable else found[unable[0]].verdict
    records = sum(found[source].records for source in rule.sources if source in found)
    needed = () if verdict == "can fire" else unable
    return RuleCoverage(rule.id, rule.title, rule.path, rule.level, None, verdict, records, (), needed)


def _can_correlate(rule: SigmaCorrelation, able: frozenset[str]) -> bool:
    """Whether matches of these sources can be enough: of the temporal kinds it takes several, of the others any one."""
    if rule.alternatives:
        return any(able.issuperset(alternative.present) for alternative in rule.alternatives)
    if rule.awaits_silence:
        return True
    enough = (rule.at_least or 1) if rule.kind in ("temporal", "temporal_ordered") else 1
    return len(able) >= enough


def fields_of(condition: Expression) -> Iterator[str]:
    """The fields that a condition names, those referred to included, in their order, repeats included."""
    for atom in atoms(condition):
        if atom.field is not None:
            yield atom.field
        if isinstance(atom.literal, FieldReference):
            yield atom.literal.field


def can_be_true(condition: Expression, source: SourceArrivals) -> bool:
    """Whether some record with no other fields than the source's may meet the condition."""
    match condition:
        case Atom():
            return _may_hold(condition, source)
        case Not(part):
            return _can_be_false(part, source)
        case And(parts):
            return all(can_be_true(part, source) for part in parts)
        case Or(parts):
            return any(can_be_true(part, source) for part in parts)


def _can_be_false(condition: Expression, source: SourceArrivals) -> bool:
    match condition:
        case Atom():
            return True
        case Not(part):
            return can_be_true(part, source)
        case And(parts):
            return any(_can_be_false(part, source) for part in parts)
        case Or(parts):
            return all(_can_be_false(part, source) for part in parts)


def _may_hold(atom: Atom, source: SourceArrivals) -> bool:
    if atom.field is None:
        return True
    named = (atom.field, atom.literal.field) if isinstance(atom.literal, FieldReference) else (atom.field,)
    return all(_has(source, name) for name in named)


def _has(source: SourceArrivals, name: str) -> bool:
    """Of names that were left out nothing is known, so they may have been there; every record has a message."""
    return name in source.fields or name == _MESSAGE or source.truncated
