"""What is wrong, doubtful or slow in rule sources: for those who write rules, before they are in force anywhere.

An error keeps a rule from being in force, or from ever being true. A warning is something that its author surely did
not mean, or that costs every record. A note is a matter of care. Every check has a name, so that it can be left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from detect.normalize import Definition
from detect.sigma.documents import RuleDocument, documents_of
from detect.sigma.lint_condition import condition_findings
from detect.sigma.lint_document import document_findings
from detect.sigma.lint_taxonomy import Taxonomy
from detect.sigma.rule import RuleError, RuleSet, SigmaRule

Weight = Literal["error", "warning", "note"]

CHECKS: Final[dict[str, tuple[Weight, str]]] = {
    "not-loaded": ("error", "the document cannot be in force"),
    "duplicate-id": ("error", "another rule has the same id: only the first is in force"),
    "placeholder-without-list": ("warning", "a placeholder has no values: the rule is inert until it has"),
    "never-true": ("error", "no record can meet the condition"),
    "always-true": ("error", "every record of the log source meets the condition"),
    "missing-id": ("warning", "without an id of its own a rule cannot be referred to, tuned or counted over time"),
    "odd-id": ("note", "the id is no UUID, as the specification asks"),
    "missing-level": ("warning", "without a level the rule counts as medium"),
    "missing-status": ("warning", "nobody can tell how mature the rule is"),
    "unknown-status": ("warning", "the status is none of Sigma's"),
    "missing-description": ("note", "whoever gets the event will ask what it means"),
    "missing-author": ("note", "licences of rules ask that matches name the author"),
    "odd-tag": ("warning", "a tag that no tool will understand"),
    "unknown-tactic": ("warning", "an attack tag that is neither a technique nor a tactic"),
    "duplicate-title": ("warning", "another rule has the same title: their events look alike"),
    "unused-detection": ("warning", "the condition never speaks of a detection"),
    "unknown-logsource": ("warning", "no parser gives records this log source"),
    "unknown-field": ("warning", "the log source has no field of this name"),
    "misspelt-field": ("warning", "a field of nearly this name is known: names are case-sensitive"),
    "slow-condition": ("warning", "no literal must be there, so the condition is judged on every record"),
    "slow-regex": ("warning", "a regular expression that no literal text precedes is run on every value"),
    "huge-regex": ("warning", "a regular expression with a very large program"),
}


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing found: where, by which check, how much it weighs, and what it is about."""

    path: str
    line: int
    rule_id: str
    check: str
    weight: Weight
    text: str


def lint(
    sources: Sequence[tuple[str, str]], rules: RuleSet, definitions: Sequence[Definition], leave_out: Sequence[str] = ()
) -> list[Finding]:
    """Everything found in the sources, by path and line. `rules` is what load_rule_set made of them.

    `definitions` are the parsers that say which log sources and fields there are. `leave_out` names checks.
    """
    documents = [document for path, text in sorted(sources) for document in documents_of(path, text)]
    found = list(_load_errors(rules.errors))
    found.extend(_titles(documents))
    by_place = {(rule.path, rule.id): rule for rule in rules.rules}
    taxonomy = Taxonomy(definitions)
    refused = {(error.path, error.rule_id) for error in rules.errors}
    for document in documents:
        for check, keys, text in document_findings(document):
            found.append(_finding(document, check, document.line_of(*keys), text))
        rule = by_place.get((document.path, document.rule_id))
        if rule is not None and (document.path, document.rule_id) not in refused:
            found.extend(_rule_findings(document, rule, taxonomy))
    return sorted(finding for finding in set(found) if finding.check not in leave_out)


def _rule_findings(document: RuleDocument, rule: SigmaRule, taxonomy: Taxonomy) -> Iterator[Finding]:
    for check, text in condition_findings(rule.condition):
        line = document.line_of("detection.condition", "detection")
        yield _finding(document, check, line, text)
    for check, text in taxonomy.findings(rule):
        key = "logsource" if check == "unknown-logsource" else "detection"
        yield _finding(document, check, document.line_of(key), text)


def _finding(document: RuleDocument, check: str, line: int, text: str) -> Finding:
    return Finding(document.path, line, document.rule_id, check, CHECKS[check][0], text)


def _load_errors(errors: Sequence[RuleError]) -> Iterator[Finding]:
    for error in errors:
        check = "not-loaded"
        if error.reason.startswith("inert"):
            check = "placeholder-without-list"
        elif "has the same id" in error.reason:
            check = "duplicate-id"
        elif error.reason.startswith("always true"):
            check = "always-true"
        yield Finding(error.path, error.line or 1, error.rule_id or "", check, CHECKS[check][0], error.reason)


def _titles(documents: Sequence[RuleDocument]) -> Iterator[Finding]:
    first: dict[str, RuleDocument] = {}
    for document in documents:
        title = str(document.content.get("title") or "").strip().lower()
        if not title:
            continue
        known = first.setdefault(title, document)
        if known is not document:
            text = f"the title {document.content['title']!r} is also that of {known.path}:{known.line_of('title')}"
            yield _finding(document, "duplicate-title", document.line_of("title"), text)
