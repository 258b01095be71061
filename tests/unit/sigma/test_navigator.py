"""ATT&CK coverage as a Navigator layer: techniques with the rules that look for them, and nothing made up."""

from __future__ import annotations

from collections import Counter

from detect.sigma import load_rule_set, starter_pack
from detect.sigma.navigator import navigator_layer

RULE = """\
title: Rule {n}
id: 0a1b2c3d-0000-4000-8000-00000000000{n}
level: {level}
tags: [{tags}]
logsource: {{product: windows}}
detection: {{s: {{a: b}}, condition: s}}
"""


def test_a_technique_counts_its_rules_by_level() -> None:
    texts = [
        RULE.format(n=1, level="high", tags="attack.t1059.001, attack.t1059"),
        RULE.format(n=2, level="low", tags="attack.t1059.001, attack.execution"),
        RULE.format(n=3, level="low", tags="cve.2021-1"),
    ]
    rules = load_rule_set([(f"{n}.yml", text) for n, text in enumerate(texts)])
    layer = navigator_layer(rules, "Mine", Counter({rules.rules[0].id: 7}))
    assert layer["name"] == "Mine" and layer["versions"]["layer"] == "4.5" and layer["domain"] == "enterprise-attack"
    assert "3 rules cover 2 techniques; 1 rules name none" in layer["description"]
    parent, sub = layer["techniques"]
    assert (parent["techniqueID"], parent["score"]) == ("T1059", 1)
    assert (sub["techniqueID"], sub["score"], sub["showSubtechniques"]) == ("T1059.001", 2, True)
    assert sub["comment"] == "1 high, 1 low\nRule 1\nRule 2"
    assert sub["metadata"] == [
        {"name": "high", "value": "1"},
        {"name": "low", "value": "1"},
        {"name": "matches", "value": "7"},
    ]
    assert layer["gradient"]["maxValue"] == 2


def test_equal_rules_give_equal_layers_with_every_technique_once() -> None:
    rules = load_rule_set(starter_pack())
    layer = navigator_layer(rules, "Starter")
    ids = [technique["techniqueID"] for technique in layer["techniques"]]
    assert ids == sorted(set(ids)) and len(ids) > 30
    assert layer == navigator_layer(rules, "Starter")
    assert all(technique["score"] >= 1 for technique in layer["techniques"])


def test_no_rules_give_an_empty_layer() -> None:
    layer = navigator_layer(load_rule_set([]), "None")
    assert layer["techniques"] == [] and layer["gradient"] == {
        "colors": layer["gradient"]["colors"],
        "minValue": 1,
        "maxValue": 2,
    }
