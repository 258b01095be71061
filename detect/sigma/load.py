"""From YAML text to a rule set. A document that cannot run is named with its line and the reason; the others load.

The sources are read in the order of their paths. Lists of placeholders come first, whatever their path; then rules,
correlations and filters. What pySigma hands over is turned into plain data at once, so matching and state never touch
its types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sigma.exceptions import SigmaError

from detect.sigma.filters import SigmaFilter, filtered, parse_filter
from detect.sigma.header import logsource_of, rule_header
from detect.sigma.identity import identity_of, stated_identity
from detect.sigma.lint_condition import constant_truth
from detect.sigma.load_correlation import ParsedCorrelationDocument, parse_correlation, resolve_correlations
from detect.sigma.other_forms import take_forms, with_forms
from detect.sigma.overlay import take_changes
from detect.sigma.pack import source_digest
from detect.sigma.placeholders import BadPlaceholders, lists_of, shipped_lists
from detect.sigma.refusal import RuleRefused
from detect.sigma.rule import RuleError, RuleSet, SigmaRule
from detect.sigma.syntax import And, Atom, Expression, Not, Or
from detect.sigma.translate import condition_of
from detect.sigma.witness import WitnessChoice
from detect.sigma.yaml_text import MAX_SOURCE_CHARACTERS, BadYaml, YamlDocument, yaml_documents

MAX_DOCUMENTS = 25_000
MAX_ERRORS_OF_A_SOURCE = 100
_KEYS_BY_ERROR = {
    "SigmaLogsourceError": "logsource", "SigmaDetectionError": "detection", "SigmaIdentifierError": "id",
    "SigmaLevelError": "level", "SigmaStatusError": "status", "SigmaTagError": "tags", "SigmaDateError": "date",
    "SigmaModifiedError": "modified", "SigmaTitleError": "title", "SigmaNameError": "name",
    "SigmaRelatedError": "related", "SigmaAuthorError": "author", "SigmaReferencesError": "references",
    "SigmaDescriptionError": "description", "SigmaFalsePositivesError": "falsepositives",
    "SigmaFieldsError": "fields", "SigmaScopeError": "scope", "SigmaLicenseError": "license",
    "SigmaTaxonomyError": "taxonomy", "SigmaTimespanError": "correlation.timespan",
    "SigmaCorrelationConditionError": "correlation.condition", "SigmaCorrelationTypeError": "correlation.type",
    "SigmaCorrelationRuleError": "correlation",
}  # fmt: skip
_FAULTS = (
    SigmaError, RuleRefused, BadPlaceholders, RecursionError, ArithmeticError,
    ValueError, TypeError, AttributeError, KeyError,
)  # fmt: skip

__all__ = ["MAX_DOCUMENTS", "MAX_ERRORS_OF_A_SOURCE", "MAX_SOURCE_CHARACTERS", "load_rule_set", "source_digest"]


@dataclass(frozen=True, slots=True)
class _Document:
    path: str
    position: int
    line: int
    content: dict[str, Any]
    lines: dict[str, int]

    def line_of(self, error: Exception) -> int:
        """The line of the part that the error speaks of, as far as it says; else the document's own."""
        place = getattr(error, "place", "") or _KEYS_BY_ERROR.get(type(error).__name__, "")
        return self.lines.get(place) or self.lines.get(place.partition(".")[0]) or self.line


@dataclass(slots=True)
class _Loading:
    """What has been read so far. Of documents with equal ids the first one counts."""

    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rules: dict[str, SigmaRule] = field(default_factory=dict)
    correlations: dict[str, ParsedCorrelationDocument] = field(default_factory=dict)
    filters: dict[str, SigmaFilter] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    errors: list[RuleError] = field(default_factory=list)
    warnings: list[RuleError] = field(default_factory=list)


def load_rule_set(sources: Sequence[tuple[str, str]]) -> RuleSet:
    """The rules of (path, YAML text) pairs. Never raises for a bad rule: it is listed in `errors`.

    Rules with `expand` placeholders that have no values are listed there as inert. Of rules with equal ids the first
    in path order loads. More than 25,000 documents are not read.
    """
    changes, others, errors = take_changes(sorted(sources))
    forms, ordered, faults = take_forms(others)
    loading = _Loading(errors=[*errors, *faults])
    documents = list(_documents(ordered, loading.errors))
    _each(loading, [item for item in documents if "placeholders" in item.content], _read_lists)
    loading.lists = shipped_lists() | loading.lists
    _each(loading, [item for item in documents if "placeholders" not in item.content], _read)
    rules = filtered(loading.rules, tuple(loading.filters.values()), loading.warnings)
    loading.warnings += [warning for rule in rules.values() if (warning := _unselective(rule)) is not None]
    correlations, silent = resolve_correlations(rules, loading.correlations, loading.errors, loading.warnings)
    loaded = RuleSet(
        source_digest(sources),
        tuple(rules.values()),
        correlations,
        tuple(loading.errors),
        silent,
        tuple(loading.warnings),
    )
    return changes.applied(with_forms(loaded, forms))


def _documents(sources: Sequence[tuple[str, str]], errors: list[RuleError]) -> Iterator[_Document]:
    """Every document that is a map, until there are too many."""
    count = 0
    for path, text in sources:
        faults = 0
        try:
            for document in yaml_documents(text):
                count += 1
                if count > MAX_DOCUMENTS:
                    reason = f"the rule set has more than {MAX_DOCUMENTS} documents: none is read from here on"
                    errors.append(RuleError(path, document.line, None, reason))
                    return
                if isinstance(document.content, dict):
                    yield _document(path, document)
                    continue
                faults += 1
                if faults > MAX_ERRORS_OF_A_SOURCE:
                    raise BadYaml("too many documents that are no rules: the rest is not read", document.line)
                errors.append(RuleError(path, document.line, None, "a rule must be a YAML map"))
        except BadYaml as error:
            errors.append(RuleError(path, error.line, None, str(error)))


def _document(path: str, document: YamlDocument) -> _Document:
    return _Document(path, document.position, document.line, document.content, document.lines)


def _each(loading: _Loading, documents: Sequence[_Document], read: Callable[[_Document, _Loading], None]) -> None:
    by_source: dict[str, int] = {}
    for document in documents:
        if by_source.get(document.path, 0) > MAX_ERRORS_OF_A_SOURCE:
            continue
        try:
            read(document, loading)
        except _FAULTS as error:
            faults = by_source[document.path] = by_source.get(document.path, 0) + 1
            reason = _reason(error)
            if faults > MAX_ERRORS_OF_A_SOURCE:
                reason += " (this source has more faults; the rest of it is not read)"
            stated = _stated_id(document.content)
            loading.errors.append(RuleError(document.path, document.line_of(error), stated, reason))


def _stated_id(content: dict[str, Any]) -> str | None:
    stated = stated_identity(content)
    return None if stated is None else stated[:200]


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return " ".join((str(error) or type(error).__name__).split())[:300]


def _read_lists(document: _Document, loading: _Loading) -> None:
    for name, values in lists_of(document.content).items():
        if name in loading.lists:
            reason = f"the list %{name}% is given before, and counts as it stands there"
            loading.warnings.append(RuleError(document.path, document.line, None, reason))
        else:
            loading.lists[name] = values


def _read(document: _Document, loading: _Loading) -> None:
    content, path = document.content, document.path
    if "action" in content:
        raise RuleRefused("documents with `action` are an old collection syntax: write each rule in full", "action")
    identity = identity_of(content, path, document.position)
    if "filter" in content:
        item = parse_filter(content, path, document.position, document.line, loading.lists)
        _claim(identity, document, loading)
        loading.filters[identity] = item
    elif "correlation" in content:
        correlation = parse_correlation(content, path, document.position, document.line)
        _claim(identity, document, loading)
        loading.correlations[identity] = correlation
    else:
        rule = _detection_rule(document, loading)
        _claim(identity, document, loading)
        loading.rules[identity] = rule


def _claim(identity: str, document: _Document, loading: _Loading) -> None:
    place = loading.places.get(identity)
    if place is not None:
        raise RuleRefused(f"another rule loaded before has the same id: {place}", "id")
    loading.places[identity] = f"{document.path}:{document.line}"


def _detection_rule(document: _Document, loading: _Loading) -> SigmaRule:
    content = document.content
    header = rule_header(content, document.path, document.position)
    logsource = logsource_of(content)
    section = content.get("detection")
    if not isinstance(section, dict):
        raise RuleRefused("must have a detection: a YAML map of detections and a condition", "detection")
    condition = condition_of(section, loading.lists)
    if _of_nothing(condition) and constant_truth(condition):
        raise RuleRefused("always true: every record of the log source meets the condition", "detection.condition")
    return SigmaRule(**header, logsource=logsource, condition=condition)


def _of_nothing(expression: Expression) -> bool:
    """Whether the expression is true where none of its atoms is: only then can it be true of everything."""
    match expression:
        case Atom():
            return expression.field is None and expression.literal == ""
        case Not(part):
            return not _of_nothing(part)
        case And(parts):
            return all(map(_of_nothing, parts))
        case Or(parts):
            return any(map(_of_nothing, parts))


def _unselective(rule: SigmaRule) -> RuleError | None:
    witnesses = WitnessChoice((rule.condition,)).witnesses(rule.condition)
    if witnesses is not None and any(atom.operator != "present" for atom in witnesses):
        return None
    reason = (
        "it can be true of nearly every record of its log source: no value must be there, at least in one alternative"
    )
    return RuleError(rule.path, None, rule.id, reason)
