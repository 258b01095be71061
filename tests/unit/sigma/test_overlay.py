"""What a tenant changes about its rules: the same whatever the order, gone when it expires, and named by the digest."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.event import SEVERITIES
from detect.sigma import RuleSet, load_rule_set, source_digest
from detect.sigma.overlay import (
    CHANGES_PATH,
    BadOverlay,
    Overlay,
    RuleChange,
    TuningFilter,
    ValueList,
    effective_sources,
    in_force,
    next_expiry,
    overlay_json,
    read_overlay,
    trial_sources,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def rule(number: int, level: str = "medium", status: str = "stable", words: str = "Failed") -> str:
    return f"""
title: Rule {number}
id: {rule_id(number)}
name: rule_{number}
status: {status}
level: {level}
logsource: {{product: linux}}
detection:
  words: ["{words} {number}"]
  condition: words
"""


def correlation(number: int, *sources: int) -> str:
    return f"""
title: Correlation {number}
id: {rule_id(number)}
status: stable
level: high
correlation:
  type: event_count
  rules: {json.dumps([rule_id(source) for source in sources])}
  group-by: [User]
  timespan: 1m
  condition: {{gte: 3}}
"""


def rule_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


PACKS = {
    "one": [("a.yml", rule(1)), ("b.yml", rule(2, "low", "test")), ("c.yml", correlation(10, 2))],
    "two": [("a.yml", rule(3, "high", "experimental")), ("b.yml", rule(4)), ("c.yml", correlation(11, 10))],
}
IDS = [rule_id(number) for number in (1, 2, 3, 4, 10, 11)]
FILTER = f"""
title: Known
logsource: {{product: linux}}
filter:
  rules: [{rule_id(1)}]
  known: [harmless]
  condition: not known
"""

expiries = st.none() | st.sampled_from([NOW - timedelta(days=1), NOW, LATER, LATER + timedelta(days=1)])
remarks = {"owner": st.text(max_size=5), "reason": st.text(max_size=5), "expires": expiries}
changes = st.builds(
    RuleChange,
    enabled=st.none() | st.booleans(),
    level=st.none() | st.sampled_from(SEVERITIES),
    status=st.none() | st.sampled_from(["stable", "test"]),
    silent=st.booleans(),
    **remarks,
)
named = {"owner": st.just("o"), "reason": st.just("r"), "expires": expiries}
overlays = st.builds(
    Overlay,
    selection=st.sampled_from([read_overlay(text).selection for text in (
        "{}", '{"selection":{"least_level":"medium"}}', '{"selection":{"statuses":["test","stable"]}}',
    )]),
    rules=st.dictionaries(st.sampled_from(IDS), changes, max_size=4),
    filters=st.dictionaries(st.sampled_from(["f", "g"]), st.builds(TuningFilter, text=st.just(FILTER), **named)),
    lists=st.dictionaries(st.sampled_from(["x", "y"]), st.builds(ValueList, values=st.just(("b", "a")), **named)),
)  # fmt: skip


def loaded(overlay: Overlay, now: datetime = NOW) -> RuleSet:
    return load_rule_set(effective_sources(PACKS, overlay, now))


def overlay_of(**content: Any) -> Overlay:
    return read_overlay(json.dumps(content))


def speaking(rules: RuleSet) -> set[str]:
    return {item.id for item in (*rules.rules, *rules.correlations)} - rules.silent


@given(overlays, st.permutations(list(PACKS)))
@settings(max_examples=60, deadline=None)
def test_the_order_of_packs_and_entries_does_not_matter(overlay: Overlay, order: list[str]) -> None:
    turned = read_overlay(overlay_json(overlay))
    turned = Overlay(turned.selection, dict(reversed(turned.rules.items())), turned.filters, turned.lists)
    assert effective_sources(PACKS, overlay, NOW) == effective_sources(
        {name: PACKS[name] for name in order}, turned, NOW
    )


@given(overlays)
@settings(max_examples=40, deadline=None)
def test_what_is_disabled_never_speaks_and_nothing_stands_on_what_is_gone(overlay: Overlay) -> None:
    rules = loaded(overlay)
    off = {name for name, change in in_force(overlay, NOW).rules.items() if change.enabled is False}
    present = {item.id for item in (*rules.rules, *rules.correlations)}
    assert not off & present
    assert all(set(item.sources) <= present for item in rules.correlations)
    assert rules.silent <= present


@given(overlays)
@settings(max_examples=60, deadline=None)
def test_an_expired_entry_has_no_effect(overlay: Overlay) -> None:
    kept = in_force(overlay, NOW)
    assert effective_sources(PACKS, overlay, NOW) == effective_sources(PACKS, kept, NOW)
    ends = next_expiry(overlay, NOW)
    if ends is None:
        assert effective_sources(PACKS, overlay, NOW + timedelta(days=99)) == effective_sources(PACKS, overlay, NOW)
    else:
        before = ends - timedelta(microseconds=1)
        assert effective_sources(PACKS, overlay, before) == effective_sources(PACKS, overlay, NOW)


@given(overlays, overlays)
@settings(max_examples=40, deadline=None)
def test_equal_digests_judge_alike_and_remarks_are_no_part_of_them(one: Overlay, other: Overlay) -> None:
    if source_digest(effective_sources(PACKS, one, NOW)) == source_digest(effective_sources(PACKS, other, NOW)):
        assert loaded(one) == loaded(other)
    remarked = {
        name: RuleChange(c.enabled, c.level, c.status, c.silent, "x", "y", LATER) for name, c in one.rules.items()
    }
    plain = {name: RuleChange(c.enabled, c.level, c.status, c.silent) for name, c in one.rules.items()}
    bare, noted = Overlay(one.selection, plain), Overlay(one.selection, remarked)
    assert effective_sources(PACKS, bare, NOW) == effective_sources(PACKS, noted, NOW)


def test_an_overlay_that_says_nothing_adds_nothing() -> None:
    sources = effective_sources(PACKS, overlay_of(rules={rule_id(1): {"enabled": True, "owner": "me"}}), NOW)
    assert [path for path, _ in sources] == [
        "one/a.yml",
        "one/b.yml",
        "one/c.yml",
        "two/a.yml",
        "two/b.yml",
        "two/c.yml",
    ]


def test_level_and_status_change_and_the_rest_of_the_rule_stays() -> None:
    plain, tuned = (
        {item.id: item for item in loaded(overlay).rules}
        for overlay in (Overlay(), overlay_of(rules={rule_id(1).upper(): {"level": "critical", "status": "test"}}))
    )
    assert (tuned[rule_id(1)].level, tuned[rule_id(1)].status) == ("critical", "test")
    assert tuned[rule_id(1)].version == plain[rule_id(1)].version
    assert tuned[rule_id(2)] == plain[rule_id(2)]


def test_a_correlation_over_a_disabled_rule_is_out_of_force_and_named_and_so_is_what_stands_on_it() -> None:
    rules = loaded(overlay_of(rules={rule_id(2): {"enabled": False}}))
    assert [(error.path, error.rule_id) for error in rules.errors] == [
        ("one/c.yml", rule_id(10)),
        ("two/c.yml", rule_id(11)),
    ]
    assert rule_id(2) in rules.errors[0].reason
    assert rules.correlations == ()


def test_a_rule_that_is_left_out_feeds_the_correlations_that_are_on() -> None:
    rules = loaded(overlay_of(selection={"least_level": "high"}, rules={rule_id(4): {"enabled": True}}))
    assert speaking(rules) == {rule_id(3), rule_id(4), rule_id(11)}
    assert rules.silent == {rule_id(2), rule_id(10)}


def test_a_rule_speaks_again_when_the_correlation_that_silenced_it_is_disabled() -> None:
    assert rule_id(2) in loaded(Overlay()).silent
    rules = loaded(overlay_of(rules={rule_id(10): {"enabled": False}}))
    assert rule_id(2) in speaking(rules)
    still = loaded(overlay_of(rules={rule_id(11): {"enabled": False}}))
    assert still.silent == {rule_id(2)}
    asked = loaded(overlay_of(rules={rule_id(10): {"enabled": False}, rule_id(2): {"silent": True}}))
    assert rule_id(2) in asked.silent


def test_a_filter_and_a_list_come_into_force_with_the_overlay() -> None:
    wanted = rule(5).replace('words: ["Failed 5"]', "words: {User|expand: '%admins%'}")
    packs = PACKS | {"three": [("d.yml", wanted)]}
    without = load_rule_set(effective_sources(packs, Overlay(), NOW))
    assert [error.rule_id for error in without.errors] == [rule_id(5)]
    note = {"owner": "o", "reason": "r"}
    overlay = overlay_of(filters={"known": {"text": FILTER} | note}, lists={"admins": {"values": ["root"]} | note})
    tuned = load_rule_set(effective_sources(packs, overlay, NOW))
    assert tuned.errors == ()
    assert rule_id(5) in {item.id for item in tuned.rules}
    [filtered] = [item for item in tuned.rules if item.id == rule_id(1)]
    assert len(filtered.filters) == 1


def test_rules_on_trial_count_in_place_of_those_of_the_set_and_are_on() -> None:
    sources = effective_sources(PACKS, overlay_of(rules={rule_id(1): {"enabled": False, "level": "low"}}), NOW)
    assert rule_id(1) not in speaking(load_rule_set(sources))
    trial = load_rule_set(trial_sources(sources, [("mine.yml", rule(1, words="Other"))], [rule_id(1)]))
    [tried] = [item for item in trial.rules if item.id == rule_id(1)]
    assert tried.path.endswith("mine.yml")
    assert tried.level == "low", "as the overlay would have it"


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("[]", "Expected `object`"),
        ('{"rule": {}}', "unknown field `rule`"),
        ('{"rules": {"a": {"level": "huge"}}}', "Invalid enum value 'huge'"),
        ('{"rules": {"a": {"expires": "2026-03-01T00:00:00"}}}', "timezone"),
        ('{"filters": {"../x": {"text": "", "owner": "o", "reason": "r"}}}', "matching regex"),
        ('{"filters": {"x": {"text": "", "owner": "", "reason": "r"}}}', "length >= 1"),
        (json.dumps({"rules": {rule_id(1): {}, "{" + rule_id(1) + "}": {"silent": True}}}), "has two entries"),
    ],
)
def test_what_is_no_overlay_is_refused_in_words(document: str, words: str) -> None:
    with pytest.raises(BadOverlay, match=words):
        read_overlay(document)


def test_damaged_changes_among_the_sources_are_an_error_and_change_nothing() -> None:
    rules = load_rule_set([*effective_sources(PACKS, Overlay(), NOW), (CHANGES_PATH, "{")])
    assert [error.path for error in rules.errors] == [CHANGES_PATH]
    assert len(rules.rules) == 4
