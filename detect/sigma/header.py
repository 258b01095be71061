"""What every document says about itself: identity, severity, tags, credit. Checked as pySigma checks it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sigma.rule import SigmaRule as ParsedRule

from detect.event import SEVERITIES, Severity
from detect.record import Logsource
from detect.sigma.identity import identity_of
from detect.sigma.refusal import RuleRefused
from detect.sigma.tags import tactics_of, techniques_of
from detect.sigma.translate import POLICY

_LOGSOURCE_PARTS = ("product", "category", "service")


def rule_header(content: dict[str, Any], path: str, position: int = 0) -> dict[str, Any]:
    """The keyword arguments of RuleHeader. Raises RuleRefused, or pySigma's errors for what the standard forbids."""
    if not content.get("title"):
        raise RuleRefused("a rule must have a title", "title")
    _refuse_odd_keys(content)
    ParsedRule.from_dict_common_params(content, False, None, policy=POLICY)
    name = str(content.get("name") or "")
    tags = [str(tag) for tag in content.get("tags") or ()]
    return {
        "id": identity_of(content, path, position),
        "name": name,
        "version": _version(content),
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
        "tags": tuple(tags),
    }


def logsource_of(content: dict[str, Any]) -> Logsource:
    """The log source in lower case. Raises RuleRefused when it says nothing."""
    stated = content.get("logsource")
    if not isinstance(stated, dict):
        raise RuleRefused("must have a log source: a map with product, category or service", "logsource")
    parts = [stated.get(part) for part in _LOGSOURCE_PARTS]
    for part, value in zip(_LOGSOURCE_PARTS, parts, strict=True):
        if value is not None and not isinstance(value, str):
            raise RuleRefused(f"the {part} of the log source must be a text, not {value!r}", "logsource")
    if not any(parts):
        raise RuleRefused("the log source says nothing: give a product, a category or a service", "logsource")
    return Logsource(*((part or "").strip().lower() for part in parts))


def _version(content: dict[str, Any]) -> str:
    judged = {key: value for key, value in content.items() if key != "tests"}
    canonical = json.dumps(judged, sort_keys=True, default=str, ensure_ascii=True, skipkeys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _refuse_odd_keys(content: dict[Any, Any]) -> None:
    """YAML reads the bare words on, off, yes and no as booleans: a detection of such a name would go unnoticed."""
    for key, value in content.items():
        if not isinstance(key, str):
            raise RuleRefused(f"the key {key!r} is no text; put it in quotes")
        if isinstance(value, dict):
            _refuse_odd_keys(value)


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
