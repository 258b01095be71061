"""What is looked at of a record once a witness of a rule is true of it: the atoms that nobody sought before.

Most atoms of a rule set are texts that matter only where another atom of their rule is true. They are left out of the
scan that every new value gets, and judged one by one for the few rules that are still possible. What that comes to is
remembered as everything else is: classes of values, and a decision for each combination of classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detect.sigma.classes import CacheBudget, ClassTable, Column
from detect.sigma.condition import Decide, at_best, decider
from detect.sigma.explanation import Explanation
from detect.sigma.field_relation import Judge
from detect.sigma.program import RuleProgram
from detect.sigma.scanner import FieldScanner, FinderShelf, KeywordScanner
from detect.sigma.scanner.aho_corasick_finder import AhoCorasickEngine

MAX_WEIGHT = 200_000
"""Atoms and rules of a matcher's follow-ups and their columns, of some 240 bytes each; beyond them all are forgotten,
so that nobody can fill the memory by odd combinations."""
_LEAST_WEIGHT = 8

Possible = tuple[int, frozenset[int]]
"""A rule that may be true, and those of its atoms that are known to be."""


class Look:
    """What to look up in a record, and what each combination of classes has come to.

    `columns[i]` has the classes of the values of `fields[i]`.
    """

    __slots__ = ("columns", "decisions", "fields", "keywords", "older", "reads_message", "records", "relations")

    def __init__(
        self,
        columns: Mapping[str, Column],
        relations: tuple[tuple[int, Judge], ...],
        keywords: KeywordScanner | None = None,
    ) -> None:
        self.fields = tuple(columns)
        self.columns = tuple(columns.values())
        self.keywords = keywords
        self.relations = relations
        self.reads_message = "message" in columns
        self.records = 0
        self.decisions: dict[tuple[int, ...], Decision] = {}
        self.older: dict[tuple[int, ...], Decision] = {}
        for column in self.columns:
            column.read_by(self)

    def decide(self, signature: tuple[int, ...], table: ClassTable, program: RuleProgram) -> Decision:
        """What a combination of classes comes to."""
        raise NotImplementedError

    def leave(self) -> None:
        """The columns need not know of it any more, and do not keep it."""
        for column in self.columns:
            column.left_by(self)


class Decision:
    """What one combination of classes comes to: the rules that are true, those that the reference must judge, and
    where to look for those that are possible. `is_empty`: nothing of all that."""

    __slots__ = ("follow_up", "is_empty", "matched", "undecided")

    def __init__(
        self,
        matched: tuple[tuple[int, Explanation], ...],
        undecided: tuple[int, ...] = (),
        follow_up: FollowUp | None = None,
    ) -> None:
        self.matched = matched
        self.undecided = undecided
        self.follow_up = follow_up
        self.is_empty = not matched and not undecided and follow_up is None


class FollowUp(Look):
    """Decides rules that are possible by their atoms that were not sought yet."""

    __slots__ = ("_possible",)

    def __init__(
        self, possible: tuple[Possible, ...], columns: Mapping[str, Column], relations: tuple[tuple[int, Judge], ...]
    ) -> None:
        super().__init__(columns, relations)
        self._possible = possible

    def decide(self, signature: tuple[int, ...], table: ClassTable, program: RuleProgram) -> Decision:
        """Which of the possible rules are true."""
        found: frozenset[int] = frozenset().union(*map(table.truths, set(signature)))
        matched = []
        for rule, true in self._possible:
            truths = true | found
            if program.decide(rule)(truths):
                matched.append((rule, program.explain(rule, truths)))
        return Decision(tuple(matched))


@dataclass(frozen=True, slots=True)
class Tail:
    """What a plan leaves of one rule: `own` atoms are answered by the plan, `rest` is sought by field, `relations`
    compare fields. `possible` tells from the answers whether the rule can be true at all."""

    own: frozenset[int]
    rest: Mapping[str, tuple[int, ...]]
    relations: tuple[int, ...]
    possible: Decide

    @property
    def is_complete(self) -> bool:
        """Whether the plan answers every atom."""
        return not self.rest and not self.relations


def _tail_of(rule: int, own: frozenset[int], program: RuleProgram) -> Tail:
    rest: dict[str, list[int]] = {}
    relations = []
    for number in program.atoms_of[rule]:
        if number in own:
            continue
        if number in program.relations:
            relations.append(number)
        else:
            rest.setdefault(program.atoms[number].field or "", []).append(number)
    condition = program.rules[rule].condition
    best = at_best(condition, frozenset(program.atoms[number] for number in own)) if rest or relations else condition
    possible = (lambda _truths: best) if isinstance(best, bool) else decider(best, program.numbers)
    return Tail(own, {field: tuple(found) for field, found in rest.items()}, tuple(relations), possible)


class FollowUps:
    """All follow-ups of a matcher, and the columns of the atoms that they seek."""

    def __init__(self, program: RuleProgram, table: ClassTable) -> None:
        self._program = program
        self._table = table
        self.forget()

    def forget(self) -> None:
        """Drops all columns and tails; whoever holds follow-ups must drop them too."""
        self._tails: dict[tuple[int, frozenset[int]], Tail] = {}
        self._shelf = FinderShelf(AhoCorasickEngine(compact=True))
        self._columns: dict[tuple[int, ...], Column] = {}
        self._budget = CacheBudget()
        self._weight = 0

    @property
    def is_full(self) -> bool:
        """Whether so many were made that it is time to forget."""
        return self._weight >= MAX_WEIGHT

    def tail(self, rule: int, answered: frozenset[int]) -> Tail:
        """The tail of a rule under a plan that answers these atoms."""
        own = answered.intersection(self._program.atoms_of[rule])
        tail = self._tails.get((rule, own))
        if tail is None:
            tail = self._tails[rule, own] = _tail_of(rule, own, self._program)
        return tail

    def make(self, possible: Sequence[Possible], tails: Mapping[int, Tail]) -> FollowUp:
        """The follow-up of these rules."""
        self._weight += _LEAST_WEIGHT + sum(1 + len(true) for _, true in possible)
        numbers: dict[str, set[int]] = {}
        relations: set[int] = set()
        for rule, _ in possible:
            relations.update(tails[rule].relations)
            for field, rest in tails[rule].rest.items():
                numbers.setdefault(field, set()).update(rest)
        columns = {field: self._column(tuple(sorted(found))) for field, found in numbers.items()}
        judges = tuple((number, self._program.relations[number]) for number in sorted(relations))
        return FollowUp(tuple(possible), columns, judges)

    def _column(self, numbers: tuple[int, ...]) -> Column:
        column = self._columns.get(numbers)
        if column is None:
            self._weight += len(numbers)
            scanner = FieldScanner({number: self._program.atoms[number] for number in numbers}, self._shelf)
            column = self._columns[numbers] = Column(scanner.truths, self._table, self._budget)
        return column
