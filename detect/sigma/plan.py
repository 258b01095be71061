"""The rules of one log source, and what to look at for them once the fields that divide them are known.

Windows services log events of hundreds of kinds, and a rule for one kind is false of all others whatever else they
say. A bucket therefore finds the fields that rules ask for by equality (EventID, Channel, eventName), and for each
combination of their classes makes a plan: the rules that can still be true, and the few fields that these look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from detect.sigma.classes import ClassTable, Column
from detect.sigma.condition import remaining
from detect.sigma.field_relation import Judge
from detect.sigma.follow_up import Decision, FollowUp, FollowUps, Look, Possible, Tail
from detect.sigma.program import RuleProgram
from detect.sigma.scanner import FinderShelf, KeywordScanner
from detect.sigma.syntax import Expression

MAX_PLANS = 256
"""Plans of one bucket; other combinations are decided by all of its rules, so that nobody can make work by them."""
MIN_PLANNED_RECORDS = 250_000
"""So many records of a bucket later its plans, if they are that many, make room for those of what comes now."""
_MAX_SWITCHES = 2
_FEWEST_DIVIDED = 8
_DIVIDING = frozenset({"equals", "number"})
_BY_TABLE = frozenset({"equals", "number", "present"})

ColumnFor = Callable[[str, tuple[int, ...]], Column]


@dataclass(frozen=True, slots=True)
class PlannedRules:
    """The rules of a plan: `known` atoms are true of every record of the plan, `standing` rules are candidates for
    every one, `direct` ones are left to the reference, `answered` atoms are those that the plan looks at."""

    alive: frozenset[int]
    known: frozenset[int]
    standing: tuple[int, ...]
    direct: tuple[int, ...]
    answered: frozenset[int]


class Plan(Look):
    """The first look at a record, for the rules that can be true of it."""

    __slots__ = ("_answered", "_direct", "_follow_ups", "_standing", "_tails", "alive", "followed", "known")

    def __init__(
        self,
        columns: Mapping[str, Column],
        relations: tuple[tuple[int, Judge], ...],
        keywords: KeywordScanner | None,
        rules: PlannedRules,
        follow_ups: FollowUps,
    ) -> None:
        super().__init__(columns, relations, keywords)
        self.alive = rules.alive
        self.known = rules.known
        self._standing = rules.standing
        self._direct = rules.direct
        self._answered = rules.answered
        self._follow_ups = follow_ups
        self._tails: dict[int, Tail] = {}
        self.followed: dict[tuple[Possible, ...], FollowUp] = {}

    def decide(self, signature: tuple[int, ...], table: ClassTable, program: RuleProgram) -> Decision:
        """Decides the rules of which a witness is among the classes, as far as the first look tells."""
        classes = {number for number in signature if number}
        candidates = self.candidates(classes, table)
        if not candidates:
            return Decision((), self._direct)
        truths = self.known.union(*map(table.truths, classes))
        matched, undecided, open_rules = [], list(self._direct), []
        for rule in sorted(candidates):
            if rule in program.open:
                undecided.append(rule)
                continue
            tail = self._tails.get(rule)
            if tail is None:
                tail = self._tails[rule] = self._follow_ups.tail(rule, self._answered)
            if not tail.possible(truths):
                continue
            if tail.is_complete:
                matched.append((rule, program.explain(rule, truths)))
            else:
                open_rules.append((rule, tail.own & truths))
        return Decision(tuple(matched), tuple(sorted(undecided)), self._followed(tuple(open_rules)))

    def candidates(self, classes: AbstractSet[int], table: ClassTable) -> set[int]:
        """The rules that a decision looks at one by one: of which a witness is among the classes, or that need none."""
        alive = self.alive
        candidates = {rule for number in classes for rule in table.candidates(number) if rule in alive}
        candidates.update(self._standing)
        return candidates

    @property
    def direct(self) -> tuple[int, ...]:
        """The rules that the reference judges on every record."""
        return self._direct

    def _followed(self, possible: tuple[Possible, ...]) -> FollowUp | None:
        if not possible:
            return None
        follow_up = self.followed.get(possible)
        if follow_up is None:
            follow_up = self.followed[possible] = self._follow_ups.make(possible, self._tails)
        return follow_up

    def looks(self) -> Iterator[Look]:
        """The plan and all that follows it."""
        yield self
        yield from self.followed.values()

    def forget(self) -> None:
        """Remembers no decision."""
        self.decisions, self.older = {}, {}
        self.followed.clear()


class Bucket:
    """The rules that apply to one log source."""

    def __init__(
        self,
        rules: Sequence[int],
        program: RuleProgram,
        column_for: ColumnFor,
        shelf: FinderShelf,
        follow_ups: FollowUps,
    ) -> None:
        self._follow_ups = follow_ups
        self.rules = tuple(rules)
        self._program = program
        direct = tuple(rule for rule in self.rules if rule in program.direct)
        self._direct = direct
        self._scanned = tuple(rule for rule in self.rules if rule not in program.direct)
        by_field: dict[str, list[int]] = {}
        spoken: list[int] = []
        for number in sorted({number for rule in self._scanned for number in program.atoms_of[rule]}):
            field = program.atoms[number].field
            if field is None:
                spoken.append(number)
            elif number not in program.relations:
                by_field.setdefault(field, []).append(number)
        self._by_field = by_field
        self.keywords = KeywordScanner({number: program.atoms[number] for number in spoken}, shelf) if spoken else None
        self._spoken = frozenset(spoken)
        self._speaking = frozenset(
            rule for rule in self._scanned if not self._spoken.isdisjoint(program.atoms_of[rule])
        )
        self._led_fields = {rule: self._fields_of(program.leading_of[rule]) for rule in self._scanned}
        self.switches = self._choose_switches()
        self._sought = self._choose_sought()
        self.columns = {field: column_for(field, numbers) for field, numbers in self._sought.items()}
        self.switch_columns = tuple(self.columns[field] for field in self.switches)
        self.whole = self._plan(self._scanned, None)
        own = frozenset(number for field in self.switches for number in by_field[field])
        self._divided = [(rule, own.intersection(program.atoms_of[rule])) for rule in self._scanned]
        self._left: dict[tuple[int, frozenset[int]], Expression | bool] = {}
        self._by_truths: dict[tuple[frozenset[int], ...], Plan] = {}
        self._by_classes: dict[tuple[int, ...], Plan] = {}
        self.records = self._planned_since = 0
        for column in self.switch_columns:
            column.read_by(self)

    def plan(self, classes: tuple[int, ...], table: ClassTable) -> Plan:
        """The plan for records whose switches have these classes."""
        plan = self._by_classes.get(classes)
        if plan is None:
            truths = tuple(map(table.truths, classes))
            plan = self._by_truths.get(truths)
            if plan is None:
                if len(self._by_truths) >= MAX_PLANS:
                    if self.records - self._planned_since < MIN_PLANNED_RECORDS:
                        return self.whole
                    self._forget_plans()
                plan = self._by_truths[truths] = self._specialised(frozenset().union(*truths))
            self._by_classes[classes] = plan
        return plan

    def _forget_plans(self) -> None:
        """Drops all plans but the whole, and with them what they decided and what followed them."""
        for plan in self._by_truths.values():
            for look in plan.looks():
                look.leave()
        self._by_truths.clear()
        self._by_classes.clear()
        self._left.clear()
        self._planned_since = self.records

    def plans(self) -> list[Plan]:
        """All plans made so far."""
        return [self.whole, *self._by_truths.values()]

    def forget_classes(self) -> None:
        """Class numbers mean something else from now on; plans stay."""
        self._by_classes.clear()

    def _choose_switches(self) -> tuple[str, ...]:
        """The fields that rules most often demand by equality."""
        program, divided = self._program, {}
        for field, numbers in self._by_field.items():
            found = [program.atoms[number] for number in numbers]
            if field == "message" or not all(atom.operator in _DIVIDING and not atom.cased for atom in found):
                continue
            nothing = dict.fromkeys(found, False)
            own = set(numbers)
            divided[field] = sum(
                remaining(program.rules[rule].condition, nothing) is False
                for rule in self._scanned
                if not own.isdisjoint(program.atoms_of[rule])
            )
        best = sorted(divided, key=lambda field: (-divided[field], field))[:_MAX_SWITCHES]
        return tuple(field for field in best if divided[field] >= _FEWEST_DIVIDED)

    def _fields_of(self, numbers: Iterable[int]) -> frozenset[str]:
        """The fields of atoms that look at one field."""
        program = self._program
        found = (program.atoms[number].field for number in numbers if number not in program.relations)
        return frozenset(field for field in found if field is not None)

    def _specialised(self, known: frozenset[int]) -> Plan:
        alive = (rule for rule, own in self._divided if not own or self._left_of(rule, own, known & own) is not False)
        return self._plan(alive, known)

    def _left_of(self, rule: int, own: frozenset[int], true: frozenset[int]) -> Expression | bool:
        """What is left of a rule when of its own switch atoms only some are true."""
        part = self._left.get((rule, true))
        if part is None:
            answers = {self._program.atoms[number]: number in true for number in own}
            part = self._left[rule, true] = remaining(self._program.rules[rule].condition, answers)
        return part

    def _choose_sought(self) -> dict[str, tuple[int, ...]]:
        """The atoms that every new value is looked at for: leading ones, and in their fields what costs nothing."""
        program, sought = self._program, {}
        leading = {number for rule in self._scanned for number in program.leading_of[rule]}
        for field, numbers in self._by_field.items():
            if field in self.switches:
                sought[field] = tuple(numbers)
            elif not leading.isdisjoint(numbers):
                sought[field] = tuple(
                    number for number in numbers if number in leading or program.atoms[number].operator in _BY_TABLE
                )
        return sought

    def _plan(self, rules: Iterable[int], known: frozenset[int] | None) -> Plan:
        """A plan for rules that can be true; `known` is None when nothing is known."""
        program, alive = self._program, frozenset(rules)
        true = known or frozenset()
        standing = _standing(sorted(alive), true, program)
        fields: set[str] = set().union(*map(self._led_fields.__getitem__, alive))
        led_to: Iterable[int] = program.relations.keys()
        if led_to:
            led_to = set().union(*map(program.leading_of.__getitem__, alive)).intersection(led_to)
        related = tuple((number, program.relations[number]) for number in sorted(led_to))
        keywords = None if alive.isdisjoint(self._speaking) else self.keywords
        answered = set().union(*map(self._sought.__getitem__, fields))
        answered.update(led_to)
        if keywords is not None:
            answered |= self._spoken
        if known is not None:
            fields.difference_update(self.switches)
            answered.update(number for field in self.switches for number in self._sought[field])
        planned = PlannedRules(alive, true, standing, self._direct, frozenset(answered))
        columns = {field: column for field, column in self.columns.items() if field in fields}
        return Plan(columns, related, keywords, planned, self._follow_ups)


def _standing(rules: Sequence[int], known: AbstractSet[int], program: RuleProgram) -> tuple[int, ...]:
    led_to = {rule for number in known for rule in program.witnessed.get(number, ())}
    return tuple(rule for rule in rules if rule in program.unwitnessed or rule in led_to)
