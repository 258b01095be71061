"""The matcher for the hot path: routing by log source, value classes, and a cache from classes to decided rules.

Per log source the rules form a bucket (plan.py). A record becomes a tuple of value classes (classes.py), one for each
field that a rule looks at; the tuple is looked up in a bounded cache of decisions. Only an unseen tuple is decided,
and then only the rules of which a necessary atom is true; only an unseen value is looked at, by one scan for all
literals of its field (scanner/). Nothing in the path of a record that was seen in kind is a loop over rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import getitem
from typing import Any

from detect.record import Logsource, NormalizedRecord
from detect.sigma.classes import CacheBudget, ClassTable, Column
from detect.sigma.explanation import Explanation
from detect.sigma.follow_up import Decision, FollowUps, Look
from detect.sigma.logsource import applies
from detect.sigma.match import RuleFault, RuleMatch
from detect.sigma.naive import judge
from detect.sigma.plan import Bucket, Plan
from detect.sigma.program import RuleProgram
from detect.sigma.rule import SigmaRule
from detect.sigma.scanner import FieldScanner, FinderShelf
from detect.sigma.values import value_of

MAX_DECISIONS = 50_000
"""Decisions of all plans together, in one of two generations; each rule in one, with its explanation, counts as one."""
MAX_ROUTES = 4096
MAX_BUCKETS = 1024


class CompiledMatcher:
    """Equal to NaiveMatcher on every record, and far faster where values repeat. Not for use by two threads at once."""

    def __init__(self, rules: Sequence[SigmaRule], shelf: FinderShelf | None = None) -> None:
        """`shelf` makes the finders of literals, or has them from an earlier run."""
        self.shelf = shelf or FinderShelf()
        self._program = RuleProgram(rules)
        self._table = ClassTable(self._program.witnessed)
        self._budget = CacheBudget()
        self._follow_ups = FollowUps(self._program, self._table)
        self._columns: dict[tuple[int, ...], Column] = {}
        self._routes: dict[Logsource, Bucket] = {}
        self._buckets: dict[tuple[int, ...], Bucket] = {}
        self._decided = 0
        self._is_time_to_forget = False
        self._faults: list[RuleFault] = []
        by_source: dict[Logsource, list[int]] = {}
        for place, rule in enumerate(self._program.rules):
            by_source.setdefault(rule.logsource, []).append(place)
        self._by_source = list(by_source.items())

    def match(self, record: NormalizedRecord) -> tuple[RuleMatch, ...]:
        """Every rule that is true of the record, in the order of the rules."""
        bucket = self._routes.get(record.logsource) or self._route(record.logsource)
        if not bucket.rules:
            return ()
        try:
            decision = self._decision(bucket, record)
            if decision.is_empty:
                return ()
            follow_up = decision.follow_up
            if follow_up is None:
                return self._matches(decision, (), record)
            second = self._looked_up(follow_up, record.quick_fields, record)
            if second.is_empty and not decision.matched and not decision.undecided:
                return ()
            return self._matches(decision, second.matched, record)
        except Exception:  # some atom raised: judge rule by rule, which names the faulty one
            rules = self._program.rules
            judged = (judge(rules[place], record, self._faults) for place in bucket.rules)
            return tuple(match for match in judged if match is not None)

    def take_faults(self) -> list[RuleFault]:
        """The faults since the last call, oldest first."""
        faults, self._faults = self._faults, []
        return faults

    def considered(self, record: NormalizedRecord) -> tuple[SigmaRule, ...]:
        """The rules that are looked at one by one when a record like this is the first of its kind, in their order:
        what a rule costs, it costs there. For those who measure; `match` does without."""
        bucket = self._routes.get(record.logsource) or self._route(record.logsource)
        fields, plan = record.fields, bucket.whole
        if bucket.switches:
            switched = zip(bucket.switches, bucket.switch_columns, strict=True)
            plan = bucket.plan(tuple(_class(column, fields.get(field)) for field, column in switched), self._table)
        if plan.reads_message and fields.get("message") is None:
            fields = {**fields, "message": record.message}
        classes = {_class(column, fields.get(field)) for field, column in zip(plan.fields, plan.columns, strict=True)}
        truths = frozenset() if plan.keywords is None else plan.keywords.truths(record)
        truths |= {number for number, judge in plan.relations if judge(record)}
        classes.add(self._table.number(truths) if truths else 0)
        classes.discard(0)
        places = plan.candidates(classes, self._table).union(plan.direct)
        return tuple(self._program.rules[place] for place in sorted(places))

    def prepare(self, logsources: Iterable[Logsource]) -> None:
        """Compiles what records of these log sources need, which otherwise their first records wait for."""
        for logsource in logsources:
            self._route(logsource)

    def _route(self, logsource: Logsource) -> Bucket:
        if self._is_time_to_forget:
            self._forget_classes()
        chosen = [place for source, places in self._by_source if applies(source, logsource) for place in places]
        key = tuple(sorted(chosen))
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._forget_buckets()
            bucket = self._buckets[key] = Bucket(key, self._program, self._column, self.shelf, self._follow_ups)
        # Senders choose service names, so routes are forgotten at a bound.
        if len(self._routes) >= MAX_ROUTES:
            self._routes.clear()
        self._routes[logsource] = bucket
        return bucket

    def _column(self, _field: str, numbers: tuple[int, ...]) -> Column:
        """The column of these atoms, which are of one field; buckets with the same atoms share it."""
        column = self._columns.get(numbers)
        if column is None:
            scanner = FieldScanner({number: self._program.atoms[number] for number in numbers}, self.shelf)
            column = self._columns[numbers] = Column(scanner.truths, self._table, self._budget)
        return column

    def _decision(self, bucket: Bucket, record: NormalizedRecord) -> Decision:
        fields, plan = record.quick_fields, bucket.whole
        if bucket.switches:
            bucket.records += 1
            try:
                classes = tuple(map(getitem, bucket.switch_columns, map(fields.get, bucket.switches)))
            except TypeError:  # a list cannot be a key
                fields = record.fields
                switched = zip(bucket.switches, bucket.switch_columns, strict=True)
                classes = tuple(_class(column, fields.get(field)) for field, column in switched)
            plan = bucket.plan(classes, self._table)
        return self._looked_up(plan, fields, record)

    def _looked_up(self, look: Look, fields: Mapping[str, Any], record: NormalizedRecord) -> Decision:
        """What the look comes to."""
        look.records += 1
        if look.reads_message and fields.get("message") is None:
            fields = {**fields, "message": record.message}
        try:
            signature = tuple(map(getitem, look.columns, map(fields.get, look.fields)))
        except TypeError:  # a list cannot be a key
            looked_up = zip(look.fields, look.columns, strict=True)
            signature = tuple(_class(column, value_of(record, field)) for field, column in looked_up)
        if look.keywords is not None:
            truths = look.keywords.truths(record)
            signature = (*signature, self._table.number(truths) if truths else 0)
        if look.relations:
            related = [number for number, judge in look.relations if judge(record)]
            signature = (*signature, self._table.number(frozenset(related)) if related else 0)
        return look.decisions.get(signature) or self._decide(look, signature)

    def _decide(self, look: Look, signature: tuple[int, ...]) -> Decision:
        decision = look.older.get(signature) or look.decide(signature, self._table, self._program)
        look.decisions[signature] = decision
        self._decided += 1 + len(decision.matched) + len(decision.undecided)
        if self._table.is_full or self._follow_ups.is_full:
            # Not while a record is looked up: its class numbers are in use. Without routes the next record is routed
            # anew, which forgets before anything is looked up, and costs the usual record no question.
            self._is_time_to_forget = True
            self._routes.clear()
        elif self._decided >= MAX_DECISIONS:
            self._decided = 0
            for plan in self._plans():
                for other in plan.looks():
                    other.older, other.decisions = other.decisions, {}
        return decision

    def _plans(self) -> Iterator[Plan]:
        return (plan for bucket in self._buckets.values() for plan in bucket.plans())

    def _forget_classes(self) -> None:
        self._is_time_to_forget = False
        self._table.forget()
        self._budget.forget()
        self._decided = 0
        for bucket in self._buckets.values():
            bucket.forget_classes()
        for plan in self._plans():
            plan.forget()
        self._follow_ups.forget()

    def _forget_buckets(self) -> None:
        self._buckets.clear()
        self._routes.clear()
        self._columns.clear()
        self._budget = CacheBudget()
        self._follow_ups.forget()

    def _matches(
        self, decision: Decision, followed: Sequence[tuple[int, Explanation]], record: NormalizedRecord
    ) -> tuple[RuleMatch, ...]:
        rules = self._program.rules
        found = (*decision.matched, *followed)
        if not decision.undecided and not (decision.matched and followed):  # they are in order
            return tuple([RuleMatch(rules[place], explanation.of(record)) for place, explanation in found])
        matches = {place: RuleMatch(rules[place], explanation.of(record)) for place, explanation in found}
        for place in decision.undecided:
            match = judge(rules[place], record, self._faults)
            if match is not None:
                matches[place] = match
        return tuple(matches[place] for place in sorted(matches))


def _class(column: Column, value: Any) -> int:
    return column.class_of(value) if isinstance(value, list | tuple | dict) else column[value]
