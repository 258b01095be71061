"""From YAML text to a rule set. A document that cannot run is named with its line and the reason; the others load.

This module and translate.py are the only ones that know pySigma. What pySigma hands over is turned into plain data
at once, so matching and state never touch its types.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import yaml
from sigma.exceptions import SigmaError
from sigma.rule import SigmaDetection
from sigma.rule import SigmaRule as ParsedRule
from sigma.rule.base import SigmaYAMLLoader, check_alias_expansion

from detect.event import SEVERITIES, Severity
from detect.record import Logsource
from detect.sigma.load_correlation import ParsedCorrelationDocument, parse_correlation, resolve_correlations
from detect.sigma.rule import RuleError, RuleSet, SigmaRule
from detect.sigma.tags import tactics_of, techniques_of
from detect.sigma.translate import POLICY, RuleRefused, detection_expression, expression_of

MAX_SOURCE_CHARACTERS = 1 << 20
_KEYS_BY_ERROR = {
    "SigmaLogsourceError": "logsource", "SigmaConditionError": "condition", "SigmaDetectionError": "detection",
    "SigmaIdentifierError": "id", "SigmaLevelError": "level", "SigmaStatusError": "status", "SigmaTagError": "tags",
    "SigmaDateError": "date", "SigmaModifiedError": "modified", "SigmaTitleError": "title", "SigmaNameError": "name",
    "SigmaRelatedError": "related", "SigmaTimespanError": "timespan", "SigmaCorrelationConditionError": "condition",
    "SigmaCorrelationTypeError": "type", "ConditionRefused": "condition", "SigmaCorrelationRuleError": "correlation",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Document:
    path: str
    position: int
    text: str
    content: dict[str, Any]

    @property
    def stated_id(self) -> str | None:
        value = self.content.get("id", self.content.get("name"))
        return None if value is None else str(value)


def load_rule_set(sources: Sequence[tuple[str, str]]) -> RuleSet:
    """The rules of (path, YAML text) pairs. Never raises for a bad rule: it is listed in `errors`.

    Rules with `expand` placeholders that have no values are listed there as inert. Of rules with equal ids the first
    in path order loads.
    """
    errors: list[RuleError] = []
    rules: dict[str, SigmaRule] = {}
    correlations: dict[str, ParsedCorrelationDocument] = {}
    ordered = sorted(sources)
    with warnings.catch_warnings():
        # Python's `re` warns of constructs in foreign patterns that it reads as they were always meant.
        warnings.simplefilter("ignore")
        for path, text in ordered:
            for document in _documents(path, text, errors):
                _load_document(document, rules, correlations, errors)
    resolved, silent = resolve_correlations(rules, correlations, errors)
    return RuleSet(source_digest(ordered), tuple(rules.values()), resolved, tuple(errors), silent)


def source_digest(sources: Sequence[tuple[str, str]]) -> str:
    """SHA-256 in hex over the sources sorted by path; lengths are part of it, so nothing can shift between fields."""
    digest = hashlib.sha256()
    for path, text in sorted(sources):
        for part in (path.encode("utf-8", "surrogatepass"), text.encode("utf-8", "surrogatepass")):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _documents(path: str, text: str, errors: list[RuleError]) -> list[_Document]:
    if len(text) > MAX_SOURCE_CHARACTERS:
        errors.append(RuleError(path, None, None, f"longer than {MAX_SOURCE_CHARACTERS} characters"))
        return []
    found = []
    try:
        for position, content in enumerate(yaml.load_all(text, SigmaYAMLLoader)):
            if content is None:
                continue
            if not isinstance(content, dict):
                errors.append(RuleError(path, None, None, "a rule must be a YAML map"))
                continue
            check_alias_expansion(content)
            found.append(_Document(path, position, text, content))
    except (yaml.YAMLError, SigmaError, RecursionError, ValueError, TypeError) as error:
        errors.append(RuleError(path, _yaml_line(error), None, f"not valid YAML: {_first_line(error)}"))
    return found


def _yaml_line(error: Exception) -> int | None:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return None if mark is None else int(mark.line) + 1


def _first_line(error: Exception) -> str:
    problem = getattr(error, "problem", None)
    text = str(problem or error) or type(error).__name__
    return " ".join(text.split())[:300]


def _load_document(
    document: _Document,
    rules: dict[str, SigmaRule],
    correlations: dict[str, ParsedCorrelationDocument],
    errors: list[RuleError],
) -> None:
    try:
        loaded: SigmaRule | ParsedCorrelationDocument
        if "correlation" in document.content:
            loaded = parse_correlation(document.content, document.path, rule_header)
            identity = loaded.header.id
        else:
            loaded = _detection_rule(document)
            identity = loaded.id
        if identity in rules or identity in correlations:
            raise RuleRefused("another rule loaded before has the same id")
    except (SigmaError, RuleRefused, RecursionError, ValueError, TypeError, AttributeError, KeyError) as error:
        reason = _first_line(error) if not isinstance(error, RecursionError) else "nested too deeply"
        errors.append(RuleError(document.path, _line_of(document, error), document.stated_id, reason))
        return
    if isinstance(loaded, SigmaRule):
        rules[identity] = loaded
    else:
        correlations[identity] = loaded


def _detection_rule(document: _Document) -> SigmaRule:
    content = document.content
    if "action" in content:
        raise RuleRefused("documents with `action` are an old collection syntax: write each rule in full")
    if "filter" in content:
        raise RuleRefused("Sigma filters are not supported")
    if not content.get("title"):
        raise RuleRefused("a rule must have a title")
    _refuse_odd_keys(content)
    parsed = ParsedRule.from_dict({key: value for key, value in content.items() if key != "tests"}, policy=POLICY)
    source = parsed.logsource
    logsource = Logsource(*((part or "").lower() for part in (source.product, source.category, source.service)))
    header = rule_header(content, document.path, document.position)
    return SigmaRule(**header, logsource=logsource, condition=expression_of(parsed.detection))


def _refuse_odd_keys(content: Any) -> None:
    """YAML reads the bare words on, off, yes and no as booleans: a detection of such a name would go unnoticed."""
    for key, value in content.items():
        if not isinstance(key, str):
            raise RuleRefused(f"the key {key!r} is no text; put it in quotes")
        if isinstance(value, dict):
            _refuse_odd_keys(value)


def rule_header(content: dict[str, Any], path: str, position: int = 0) -> dict[str, Any]:
    """The keyword arguments of RuleHeader, read from a document that pySigma found valid."""
    name = str(content.get("name") or "")
    judged = {key: value for key, value in content.items() if key != "tests"}
    canonical = json.dumps(judged, sort_keys=True, default=str, ensure_ascii=True, skipkeys=True)
    tags = [str(tag) for tag in content.get("tags") or ()]
    return {
        "id": str(content.get("id") or name or f"{path}#{position}"),
        "name": name,
        "version": hashlib.sha256(canonical.encode()).hexdigest()[:12],
        "path": path,
        "title": str(content["title"]),
        "description": str(content.get("description") or "").strip(),
        "level": _level(content.get("level")),
        "status": str(content.get("status") or ""),
        "author": str(content.get("author") or ""),
        "license": str(content.get("license") or ""),
        "references": _texts(content.get("references")),
        "falsepositives": _texts(content.get("falsepositives")),
        "techniques": techniques_of(tags),
        "tactics": tactics_of(tags),
    }


def _texts(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)


def _level(value: object) -> Severity:
    """The rule's level; a rule that states none counts as medium."""
    for severity in SEVERITIES:
        if severity == str(value).lower():
            return severity
    return "medium"


def _line_of(document: _Document, error: Exception) -> int | None:
    """The line of the part that the error speaks of: the faulty detection where one can be found, else its key."""
    try:
        nodes = yaml.compose_all(document.text, yaml.CSafeLoader)
        node = next(islice(nodes, document.position, None))
    except (yaml.YAMLError, RecursionError, StopIteration):
        return None
    lines = _key_lines(node)
    detection = document.content.get("detection")
    if isinstance(detection, dict) and "correlation" not in document.content:
        for name, definition in detection.items():
            if name != "condition" and _is_faulty(definition):
                return lines.get(f"detection.{name}")
    key = _KEYS_BY_ERROR.get(type(error).__name__)
    for path in (f"detection.{key}", f"correlation.{key}", key):
        if path in lines:
            return lines[path]
    return int(node.start_mark.line) + 1


def _is_faulty(definition: Any) -> bool:
    try:
        detection_expression(SigmaDetection.from_definition(definition, None, POLICY))
    except (SigmaError, RuleRefused, ValueError, TypeError, AttributeError, RecursionError):
        return True
    return False


def _key_lines(node: Any) -> dict[str | None, int]:
    """Line of every key on the first two levels, as `key` and `key.inner`."""
    lines: dict[str | None, int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        lines[str(key.value)] = int(key.start_mark.line) + 1
        for inner, _ in value.value if isinstance(value, yaml.MappingNode) else ():
            lines[f"{key.value}.{inner.value}"] = int(inner.start_mark.line) + 1
    return lines
