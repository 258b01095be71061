"""Value classes: a value stands for the set of atoms that are true of it, and values repeat in logs.

A column remembers the classes of one field's values, so most values are answered by one look-up in a dictionary. All
memory is bounded together, in two generations: hostile unique values cost time, never memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from detect.sigma.values import text_of, texts_of

MAX_CLASSES = 30_000
MAX_CLASS_MEMBERS = 1_000_000
MAX_GENERATION_BYTES = 24 << 20
"""Remembered values of all columns together, in one of two generations; what is beyond makes the next generation."""
MAX_COLUMN_VALUES = 50_000
MAX_VALUE_CHARACTERS = 4096
"""Longer values are looked at each time that they come."""
_ENTRY_BYTES = 120
_WINDOW = 4096
_RESTING_WINDOWS = 15
_REPEATS_TOO_RARELY = 0.9
# Of these integers only do text and equality say the same: True == 1, and 1e15 is written otherwise than 10**15.
_SMALLEST, _LARGEST = 2, 10**15

Truths = Callable[[str], frozenset[int]]


class Reader(Protocol):
    """Someone who looks values up: `records` counts how often."""

    records: int


class ClassTable:
    """The classes of all columns. Class 0 is the empty one: nothing is true of a missing value."""

    def __init__(self, witnessed: Mapping[int, tuple[int, ...]]) -> None:
        """`witnessed`: the rules that may be true when an atom is, by the atom's number."""
        self._witnessed = witnessed
        self.forget()

    def forget(self) -> None:
        """Drops all classes; numbers given out before mean nothing afterwards."""
        self._sets: list[frozenset[int]] = [frozenset()]
        self._numbers: dict[frozenset[int], int] = {frozenset(): 0}
        self._candidates: list[tuple[int, ...]] = [()]
        self._members = 0

    @property
    def is_full(self) -> bool:
        """Whether so many classes came that it is time to forget."""
        return len(self._sets) >= MAX_CLASSES or self._members >= MAX_CLASS_MEMBERS

    def number(self, truths: frozenset[int]) -> int:
        """The class of values of which exactly these atoms are true."""
        known = self._numbers.get(truths)
        if known is None:
            known = self._numbers[truths] = len(self._sets)
            self._sets.append(truths)
            witnessed = self._witnessed
            rules = {rule for atom in truths for rule in witnessed.get(atom, ())}
            self._members += len(truths) + len(rules)
            self._candidates.append(tuple(sorted(rules)))
        return known

    def truths(self, number: int) -> frozenset[int]:
        """The atoms that are true of a class."""
        return self._sets[number]

    def candidates(self, number: int) -> tuple[int, ...]:
        """The rules that have a witness in a class."""
        return self._candidates[number]


class CacheBudget:
    """What all columns of a matcher may remember."""

    def __init__(self) -> None:
        self._columns: list[Column] = []
        self._spent = 0

    def add(self, column: Column) -> None:
        """From now on the column ages with the others."""
        self._columns.append(column)

    def charge(self, size: int) -> None:
        """So many bytes are remembered more."""
        self._spent += size
        if self._spent > MAX_GENERATION_BYTES:
            self.age()

    def age(self) -> None:
        """The next generation begins, for all columns: of one that aged alone, nobody would count the older one."""
        for column in self._columns:
            column.age()

    def release(self, size: int) -> None:
        """So many bytes are remembered no longer."""
        self._spent -= size

    def forget(self) -> None:
        """Empties all columns."""
        for column in self._columns:
            column.forget()


class Column(dict[Any, int]):
    """From the values of a field to their classes; `column[value]` finds out what it does not remember.

    TypeError for a value that cannot be a key, such as a list: see `class_of`.
    """

    __slots__ = (
        "_budget", "_few", "_misses", "_old", "_readers", "_resting", "_seen_before", "_size", "_table", "_truths",
    )  # fmt: skip

    def __init__(self, truths: Truths, table: ClassTable, budget: CacheBudget) -> None:
        super().__init__({None: 0})
        self._truths = truths
        self._table = table
        self._budget = budget
        self._old: dict[Any, int] = {}
        self._few: dict[tuple[type, int], int] = {}
        self._size = self._misses = self._resting = self._seen_before = 0
        self._readers: dict[Reader, None] = {}
        budget.add(self)

    def read_by(self, reader: Reader) -> None:
        """The reader looks up one value for each of its records."""
        self._readers[reader] = None

    def left_by(self, reader: Reader) -> None:
        """The reader looks up nothing more; what it did still counts."""
        del self._readers[reader]
        self._seen_before -= reader.records

    def __missing__(self, value: Any) -> int:
        if type(value) is not str and value in (0, 1):
            return self._of_few(value)
        known = self._old.get(value) if self._old else None
        if known is None:
            known = self._table.number(self._truths(value)) if type(value) is str else self.class_of(value)
            self._misses += 1
            if self._misses >= _WINDOW:
                self._judge_repetition()
        if self._resting:
            return known
        if type(value) is str:
            if len(value) <= MAX_VALUE_CHARACTERS:
                self._keep(value, known)
        elif type(value) is int and _SMALLEST <= abs(value) < _LARGEST:
            self._keep(value, known)
        return known

    def _of_few(self, value: Any) -> int:
        """0 and 1 come often, and are equal to the truth values, which have other texts."""
        kind = (value.__class__, int(value))
        known = self._few.get(kind)
        if known is None:
            known = self._few[kind] = self.class_of(value)
        return known

    def class_of(self, value: Any) -> int:
        """The class of any value, found anew: of a list, what is true of an element is true."""
        if value.__class__ is str:
            return self._table.number(self._truths(value))
        if value is None:
            return 0
        if isinstance(value, list | tuple | dict):
            return self._table.number(frozenset().union(*map(self._element, texts_of(value))))
        return self._table.number(self._truths(text_of(value)))

    def _element(self, text: str) -> frozenset[int]:
        return self._table.truths(self[text])

    def _keep(self, value: Any, known: int) -> None:
        self[value] = known
        size = sys.getsizeof(value) + _ENTRY_BYTES
        self._size += size
        if len(self) > MAX_COLUMN_VALUES:
            self._budget.age()
        else:
            self._budget.charge(size)

    def _judge_repetition(self) -> None:
        """A field whose values never come again (a GUID, a time) is not worth remembering, for a while."""
        seen = sum(reader.records for reader in self._readers)
        looked_up, self._seen_before = seen - self._seen_before, seen
        misses, self._misses = self._misses, 0
        if self._resting:
            self._resting -= 1
        elif misses > looked_up * _REPEATS_TOO_RARELY:
            self._resting = _RESTING_WINDOWS
            self.forget()

    def age(self) -> None:
        """What was not looked up for a whole generation is forgotten."""
        self._old = dict(self)
        self._empty()

    def forget(self) -> None:
        """Remembers nothing."""
        self._old, self._few = {}, {}
        self._empty()

    def _empty(self) -> None:
        self.clear()
        self[None] = 0
        self._budget.release(self._size)
        self._size = 0
