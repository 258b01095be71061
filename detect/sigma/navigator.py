"""ATT&CK coverage of rules as a layer of MITRE's ATT&CK Navigator (layer format 4.5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from detect.event import SEVERITIES
from detect.sigma.rule import RuleHeader, RuleSet

LAYER_VERSION: Final = "4.5"
_SHOWN_TITLES: Final = 20
_COLOURS: Final = ("#dbe9f6", "#3787c0", "#08306b")


def navigator_layer(rules: RuleSet, name: str, hits: Counter[str] | None = None) -> dict[str, Any]:
    """The layer as plain JSON values: a technique's score is how many rules look for it.

    Rules that only feed correlations count as well, since a correlation speaks by them. `hits` (matches by rule id)
    are added as metadata where given. Techniques come in order, so equal rules give equal layers.
    """
    by_technique: dict[str, list[RuleHeader]] = {}
    for rule in (*rules.rules, *rules.correlations):
        for technique in rule.techniques:
            by_technique.setdefault(technique, []).append(rule)
    techniques = [_technique(technique, found, hits) for technique, found in sorted(by_technique.items())]
    most = max((technique["score"] for technique in techniques), default=1)
    return {
        "name": name,
        "versions": {"layer": LAYER_VERSION, "navigator": "5.1.0"},
        "domain": "enterprise-attack",
        "description": _description(rules, len(by_technique)),
        "sorting": 3,
        "layout": {"layout": "side", "showID": True, "showName": True, "expandedSubtechniques": "annotated"},
        "hideDisabled": False,
        "techniques": techniques,
        "gradient": {"colors": list(_COLOURS), "minValue": 1, "maxValue": max(2, most)},
        "legendItems": [],
        "metadata": [{"name": "rules", "value": str(len(rules.rules) + len(rules.correlations))}],
        "selectTechniquesAcrossTactics": True,
        "selectSubtechniquesWithParent": False,
    }


def _description(rules: RuleSet, covered: int) -> str:
    everything = (*rules.rules, *rules.correlations)
    without = sum(not rule.techniques for rule in everything)
    counts = f"{len(everything)} rules cover {covered} techniques; {without} rules name none."
    return f"{counts} Rule set {rules.digest[:12]}."


def _technique(technique: str, rules: Sequence[RuleHeader], hits: Counter[str] | None) -> dict[str, Any]:
    levels = Counter(rule.level for rule in rules)
    counts = ", ".join(f"{levels[level]} {level}" for level in reversed(SEVERITIES) if levels[level])
    titles = sorted({rule.title for rule in rules})
    more = f"\n… and {len(titles) - _SHOWN_TITLES} more" if len(titles) > _SHOWN_TITLES else ""
    metadata: list[tuple[str, str]] = [(level, str(levels[level])) for level in reversed(SEVERITIES) if levels[level]]
    if hits is not None:
        metadata.append(("matches", str(sum(hits[rule.id] for rule in rules))))
    return {
        "techniqueID": technique,
        "score": len(rules),
        "color": "",
        "comment": f"{counts}\n" + "\n".join(titles[:_SHOWN_TITLES]) + more,
        "enabled": True,
        "metadata": _pairs(metadata),
        "links": [],
        "showSubtechniques": "." in technique,
    }


def _pairs(items: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in items]
