"""Value classes: whatever the caches do, a column gives every value the class of exactly the atoms true of it."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.sigma import classes
from detect.sigma.classes import CacheBudget, ClassTable, Column
from detect.sigma.scanner import FieldScanner, FinderShelf
from detect.sigma.syntax import Atom
from detect.sigma.values import atom_holds, texts_of

ATOMS = {
    0: Atom("f", "contains", "ab"),
    1: Atom("f", "equals", "true"),
    2: Atom("f", "number", 1),
    3: Atom("f", "present"),
    4: Atom("f", "equals", "1e+15"),
    5: Atom("f", "startswith", "5"),
}


class Reading:
    """Someone who looks values up."""

    def __init__(self) -> None:
        self.records = 0


def column(table: ClassTable) -> tuple[Column, Reading]:
    made, reading = Column(FieldScanner(ATOMS, FinderShelf()).truths, table, CacheBudget()), Reading()
    made.read_by(reading)
    return made, reading


def expected(value: Any) -> set[int]:
    return {number for number, atom in ATOMS.items() if any(atom_holds(atom, text) for text in texts_of(value))}


scalars = (
    st.none() | st.booleans() | st.integers(-2, 60) | st.floats() | st.sampled_from(["", "ab", "xAB", "true", "1"])
)
odd_numbers = st.sampled_from([10**15, 1e15, 2**80, -(2**80), 10**5000, 5.0, 50])


@given(st.lists(scalars | odd_numbers | st.lists(scalars, max_size=3), max_size=12))
def test_a_class_holds_exactly_what_is_true_in_any_order_of_values(values: list[Any]) -> None:
    table = ClassTable({})
    looked_up, _ = column(table)
    for value in [*values, *values]:
        number = looked_up.class_of(value) if isinstance(value, list) else looked_up[value]
        assert table.truths(number) == expected(value)


def test_a_missing_value_is_of_the_empty_class_whatever_is_forgotten() -> None:
    looked_up, _ = column(ClassTable({}))
    for forget in (looked_up.age, looked_up.forget):
        forget()
        assert looked_up[None] == 0
        assert len(looked_up) == 1


def test_memory_is_bounded_by_entries_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "MAX_COLUMN_VALUES", 100)
    looked_up, _ = column(ClassTable({}))
    for number in range(1000):
        assert looked_up[f"value {number}"] == looked_up[f"value {number}"]
        assert len(looked_up) <= 102
    monkeypatch.setattr(classes, "MAX_GENERATION_BYTES", 20_000)
    looked_up, _ = column(ClassTable({}))
    for number in range(1000):
        looked_up[f"{number} " + "x" * 1000]
        assert len(looked_up) <= 22


def test_memory_is_bounded_by_bytes_when_columns_are_filled_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(classes, "MAX_COLUMN_VALUES", 100)
    monkeypatch.setattr(classes, "MAX_GENERATION_BYTES", 50_000)
    table, budget = ClassTable({}), CacheBudget()
    columns = [Column(FieldScanner(ATOMS, FinderShelf()).truths, table, budget) for _ in range(10)]
    for filled in columns:
        for number in range(101):
            filled[f"{number} " + "x" * 200]
        held = sum(sys.getsizeof(text) for made in columns for old in (made, made._old) for text in old if text)
        assert held <= 2 * 50_000


def test_a_reader_that_leaves_makes_no_field_look_as_if_its_values_never_came_again() -> None:
    looked_up, reading = column(ClassTable({}))
    other = Reading()
    looked_up.read_by(other)
    for number in range(classes._WINDOW):
        reading.records, other.records = reading.records + 3, other.records + 3
        looked_up[f"new {number}"]
    looked_up.left_by(other)
    for number in range(classes._WINDOW, 2 * classes._WINDOW):
        reading.records += 3
        looked_up[f"new {number}"]
    assert len(looked_up) > classes._WINDOW


def test_long_values_are_looked_at_each_time_and_not_remembered() -> None:
    table = ClassTable({})
    looked_up, _ = column(table)
    longest = "x" * 4094 + "ab"
    for text in (longest, longest + "ab"):
        assert table.truths(looked_up[text]) == {0, 3}
    assert longest in looked_up
    assert longest + "ab" not in looked_up


def test_a_field_whose_values_never_come_again_is_not_remembered_for_a_while() -> None:
    looked_up, reading = column(ClassTable({}))
    for number in range(classes._WINDOW):
        reading.records += 1
        looked_up[f"never again {number}"]
    assert len(looked_up) == 1
    looked_up["ab"]
    assert "ab" not in looked_up


def test_a_field_that_repeats_now_and_then_stays_remembered() -> None:
    looked_up, reading = column(ClassTable({}))
    for number in range(classes._WINDOW + 10):
        reading.records += 3
        looked_up[f"new {number}"]
    assert len(looked_up) > classes._WINDOW


def test_candidates_are_the_rules_that_have_a_witness_in_the_class() -> None:
    table = ClassTable({1: (4, 2), 2: (2, 9)})
    assert table.candidates(table.number(frozenset({1, 2, 3}))) == (2, 4, 9)
    assert table.candidates(table.number(frozenset({3}))) == ()
    assert table.number(frozenset()) == 0


def test_a_table_that_is_full_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "MAX_CLASSES", 3)
    table = ClassTable({})
    said = [table.is_full]
    table.number(frozenset({1}))
    table.number(frozenset({2}))
    said.append(table.is_full)
    table.forget()
    assert [*said, table.is_full] == [False, True, False]


def test_the_rules_that_classes_lead_to_are_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "MAX_CLASS_MEMBERS", 100)
    table = ClassTable({1: tuple(range(60))})
    table.number(frozenset({1}))
    assert not table.is_full
    table.number(frozenset({1, 2}))
    assert table.is_full


def test_many_columns_age_together_and_each_remembers_its_last_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "MAX_GENERATION_BYTES", 400_000)
    table, budget, looked_at = ClassTable({}), CacheBudget(), []
    scanner = FieldScanner(ATOMS, FinderShelf())

    def truths(text: str) -> frozenset[int]:
        looked_at.append(text)
        return scanner.truths(text)

    columns = [Column(truths, table, budget) for _ in range(2000)]
    for made in columns:
        made["ab"]
    while len(columns[1]) == 2:
        columns[0][f"new {len(looked_at)}"]
    assert {len(made) for made in columns[1:]} == {1}
    before = len(looked_at)
    assert {table.truths(made["ab"]) for made in columns} == {frozenset({0, 3})}
    assert len(looked_at) == before
