"""What a matcher remembers stays in bounds whatever is sent, and forgetting it never changes what it says."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.record import NormalizedRecord
from detect.sigma import CompiledMatcher, NaiveMatcher, classes, compiled, follow_up, plan
from detect.sigma.follow_up import FollowUp, Look
from tests.unit.sigma.records import loaded, record, rule_text

FOLLOWED = loaded(
    *(
        rule_text(
            f"""
            a: {{CommandLine|contains: 'witness number {number}'}}
            b: {{ParentCommandLine|contains: ['text {number}', 'other {number}', 'third {number}']}}
            c: {{User|contains: ['user {number}', 'guest {number}']}}
            d: {{Company|contains: ['maker {number}', 'seller {number}']}}
            condition: a and b and c and d
            """,
            title=f"followed {number}",
        )
        for number in range(8)
    ),
    *(rule_text(f"a: {{Other|contains: 'word {number}'}}\ncondition: a") for number in range(8)),
).rules


def looks(matcher: CompiledMatcher) -> Iterator[Look]:
    return (look for made in matcher._plans() for look in made.looks())


def said(*words: str) -> NormalizedRecord:
    fields = ("CommandLine", "ParentCommandLine", "User", "Company", "Other")
    return record(dict(zip(fields, words, strict=True)))


def choices(seed: int = 7) -> random.Random:
    return random.Random(seed)  # noqa: S311 - a test's choices


def some_of(pick: random.Random, stem: str) -> str:
    return " ".join(f"{stem} {number}," for number in range(8) if pick.random() < 0.3)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(5, 20), st.integers(20, 200))
def test_forgetting_between_a_look_and_what_follows_it_loses_no_rule(seed: int, most_classes: int, weight: int) -> None:
    naive, matcher = NaiveMatcher(FOLLOWED), CompiledMatcher(FOLLOWED)
    pick, stems = choices(seed), ("witness number", "text", "user", "maker", "word")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classes, "MAX_CLASSES", most_classes)
        patch.setattr(follow_up, "MAX_WEIGHT", weight)
        for _ in range(60):
            given_record = said(*(some_of(pick, stem) for stem in stems))
            assert matcher.match(given_record) == naive.match(given_record)


@pytest.mark.parametrize("most_classes", range(4, 16))
def test_what_follows_a_look_that_filled_the_classes_is_still_found(
    monkeypatch: pytest.MonkeyPatch, most_classes: int
) -> None:
    monkeypatch.setattr(classes, "MAX_CLASSES", most_classes)
    naive, matcher = NaiveMatcher(FOLLOWED), CompiledMatcher(FOLLOWED)
    for given_record in (
        said("witness number 1", "text 1", "user 1", "maker 1", ""),
        *(said("", "", "", "", f"word {number}") for number in range(7)),
        *(said("witness number 1", "text 1", "guest 1", "seller 1", f"word {number} word 7") for number in range(7)),
    ):
        assert matcher.match(given_record) == naive.match(given_record)


def test_no_class_is_forgotten_while_a_record_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "MAX_CLASSES", 3)
    matcher, forgotten = CompiledMatcher(FOLLOWED), []
    monkeypatch.setattr(matcher._table, "forget", lambda: forgotten.append(len(forgotten)))
    for number in range(3):
        matcher.match(said(f"witness number {number}", f"text {number}", "user 1", "maker 1", f"word {number}"))
        assert len(forgotten) == number


def test_follow_ups_are_weighed_by_what_they_look_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow_up, "MAX_WEIGHT", 300)
    matcher, pick = CompiledMatcher(FOLLOWED), choices()
    heaviest = 0
    for _ in range(200):
        matcher.match(said(some_of(pick, "witness number"), "text 1", "user 1", "maker 1", ""))
        made = [look for look in looks(matcher) if isinstance(look, FollowUp)]
        atoms = sum(map(len, matcher._follow_ups._columns))
        heaviest = max(heaviest, atoms + sum(len(look._possible) for look in made))
    assert heaviest <= 300 + 8 * (3 + 2 + 2) + 8


def test_decisions_are_weighed_by_the_rules_that_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "MAX_DECISIONS", 400)
    rules = loaded(
        *(rule_text("a: {f|contains: always}\ncondition: a", title=f"rule {number}") for number in range(50)),
        *(rule_text(f"a: {{g|contains: 'word {number}'}}\ncondition: a") for number in range(8)),
    ).rules
    matcher, pick = CompiledMatcher(rules), choices()
    for _ in range(200):
        assert len(matcher.match(record({"f": "always", "g": some_of(pick, "word")}))) >= 50
        held = [decision for look in looks(matcher) for decision in (*look.decisions.values(), *look.older.values())]
        assert sum(len(decision.matched) for decision in held) <= 2 * (400 + 58)


def test_plans_make_room_again_and_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MAX_PLANS", 3)
    monkeypatch.setattr(plan, "MIN_PLANNED_RECORDS", 50)
    texts = [
        rule_text(
            f"""
            a: {{EventID: {number}}}
            b: {{f|contains: 'a text that is rarely there'}}
            c: {{g|contains: y}}
            condition: a and b and c
            """
        )
        for number in range(20)
    ]
    rules = loaded(*texts).rules
    naive, matcher, pick = NaiveMatcher(rules), CompiledMatcher(rules), choices()
    planned, followed = set(), 0
    for _ in range(600):
        fields = {"EventID": pick.randrange(20), "f": "a text that is rarely there", "g": pick.choice("xy")}
        assert matcher.match(record(fields)) == naive.match(record(fields))
        [bucket] = matcher._buckets.values()
        planned |= {made.known for made in bucket.plans()}
        assert len(bucket.plans()) <= 1 + 3
        of_follow_ups = {reader for column in matcher._follow_ups._columns.values() for reader in column._readers}
        followed += len(of_follow_ups)
        readers = of_follow_ups.union(*(column._readers for column in bucket.columns.values()))
        assert readers <= {bucket, *looks(matcher)}
    assert len(planned) > 10 and followed
