"""Checks of what a rule's author wrote around the detection, and of names that the condition leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, Final
from uuid import UUID

from detect.sigma.documents import RuleDocument

DocumentFinding = tuple[str, tuple[str, ...], str]
"""The check, the keys of which the first that is there gives the line, and the text."""

STATUSES: Final = ("stable", "test", "experimental", "deprecated", "unsupported")
TACTICS: Final = frozenset(
    (
        *("reconnaissance", "resource-development", "initial-access", "execution", "persistence"),
        *("privilege-escalation", "defense-evasion", "stealth", "defense-impairment", "credential-access"),
        *("discovery", "lateral-movement", "collection", "command-and-control", "exfiltration", "impact"),
    )
)
"""ATT&CK Enterprise, with the two that replace defense-evasion in version 19; ICS and Mobile have more."""
_OTHER_TACTICS: Final = frozenset(
    ("evasion", "inhibit-response-function", "impair-process-control", "network-effects", "remote-service-effects")
)
_ATTACK_ID = re.compile(r"(?:t\d{4}(?:\.\d{3})?|[gsm]\d{4}|ds\d{4}|c\d{4})")
_TAG = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_.-]+)+")
_WORD = re.compile(r"[\w*-]+")
_OPERATORS: Final = frozenset({"and", "or", "not", "of", "all", "them", "any"})


def document_findings(document: RuleDocument) -> Iterator[DocumentFinding]:
    """What is to be said of a rule, correlation or filter as it is written."""
    content = document.content
    yield from _identity(content)
    if "filter" in content and "detection" not in content:
        return
    yield from _maturity(content)
    yield from _tags(content)
    detection = content.get("detection")
    if isinstance(detection, dict) and "correlation" not in content:
        for name in unused_detections(detection):
            keys = (f"detection.{name}", "detection")
            yield "unused-detection", keys, f"the condition does not speak of {name!r}"


def _identity(content: dict[str, Any]) -> Iterator[DocumentFinding]:
    stated = content.get("id")
    if stated is None:
        yield "missing-id", ("title",), "there is no `id`"
        return
    try:
        UUID(str(stated))
    except ValueError:
        yield "odd-id", ("id",), f"{stated!r} is no UUID"


def _maturity(content: dict[str, Any]) -> Iterator[DocumentFinding]:
    if not content.get("level"):
        yield "missing-level", ("title",), "there is no `level`"
    status = content.get("status")
    if not status:
        yield "missing-status", ("title",), "there is no `status`"
    elif str(status).lower() not in STATUSES:
        yield "unknown-status", ("status",), f"{status!r} is none of {', '.join(STATUSES)}"
    for key in ("description", "author"):
        if not content.get(key):
            yield f"missing-{key}", ("title",), f"there is no `{key}`"


def _tags(content: dict[str, Any]) -> Iterator[DocumentFinding]:
    tags = content.get("tags")
    for tag in tags if isinstance(tags, list) else ():
        text = str(tag)
        space, _, name = text.partition(".")
        if not _TAG.fullmatch(text):
            yield "odd-tag", ("tags",), f"{text!r} is not of the form namespace.name in lower case"
        elif space == "attack" and not _ATTACK_ID.fullmatch(name):
            tactic = name.replace("_", "-")
            if tactic not in TACTICS and tactic not in _OTHER_TACTICS:
                yield "unknown-tactic", ("tags",), f"{text!r} names neither a technique, group or software nor a tactic"


def unused_detections(detection: dict[str, Any]) -> list[str]:
    """Names of detections that no condition speaks of, in order."""
    condition = detection.get("condition")
    texts = condition if isinstance(condition, list) else [condition]
    words = [word for text in texts for word in _WORD.findall(str(text))]
    names = [str(name) for name in detection if name not in ("condition", "timeframe")]
    if "them" in words:  # which stands for all but those that begin with an underscore
        names = [name for name in names if name.startswith("_")]
    used = [word for word in words if word.lower() not in _OPERATORS]
    return [name for name in names if not any(word == name or fnmatchcase(name, word) for word in used)]
