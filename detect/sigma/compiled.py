"""The matcher for the hot path: routing by log source, value classes, and a cache from classes to decided rules.

Per log source the rules are compiled into a bucket. A record becomes a tuple of value classes, one for each field that
a rule of the bucket names; the tuple is looked up in a bounded cache of decisions. Only an unseen tuple is decided, and
then only the rules of which a necessary atom is true. Rules with keywords or field references depend on more than
classes: they are judged by the reference once their witnesses allow it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from detect.record import Logsource, NormalizedRecord
from detect.sigma.classes import FieldClasses
from detect.sigma.logsource import applies
from detect.sigma.match import RuleFault, RuleMatch
from detect.sigma.naive import explain, judge
from detect.sigma.regex_literals import folded, required_texts
from detect.sigma.rule import SigmaRule
from detect.sigma.syntax import And, Atom, Expression, Not, Or, Pattern, Regex, atoms, necessary
from detect.sigma.values import texts_of

MAX_DECISIONS = 20_000
MAX_ROUTES = 4096

Decide = Callable[[frozenset[int]], bool]
Decision = tuple[tuple[int, ...], tuple[int, ...]]


class CompiledMatcher:
    """Equal to NaiveMatcher on every record, and far faster where values repeat."""

    def __init__(self, rules: Sequence[SigmaRule]) -> None:
        self._rules = tuple(rules)
        self._routes: dict[Logsource, Bucket] = {}
        self._buckets: dict[tuple[int, ...], Bucket] = {}
        self._faults: list[RuleFault] = []

    def match(self, record: NormalizedRecord) -> tuple[RuleMatch, ...]:
        """Every rule that is true of the record, in the order of the rules."""
        bucket = self._routes.get(record.logsource) or self._route(record.logsource)
        if not bucket.rules:
            return ()
        try:
            return bucket.match(record, self._faults)
        except Exception:  # some atom raised: judge rule by rule, which names the faulty one
            judged = (judge(rule, record, self._faults) for rule in bucket.rules)
            return tuple(match for match in judged if match is not None)

    def take_faults(self) -> list[RuleFault]:
        """The faults since the last call, oldest first."""
        faults, self._faults = self._faults, []
        return faults

    def _route(self, logsource: Logsource) -> Bucket:
        chosen = tuple(number for number, rule in enumerate(self._rules) if applies(rule.logsource, logsource))
        bucket = self._buckets.get(chosen)
        if bucket is None:
            bucket = self._buckets[chosen] = Bucket([self._rules[number] for number in chosen])
        # Senders choose service names, so routes are forgotten at a bound; buckets are as few as the rules' sources.
        if len(self._routes) >= MAX_ROUTES:
            self._routes.clear()
        self._routes[logsource] = bucket
        return bucket


class Bucket:
    """The rules that apply to one log source, compiled."""

    def __init__(self, rules: Sequence[SigmaRule]) -> None:
        self.rules = tuple(rules)
        self._numbers: dict[Atom, int] = {}
        self._deciders: dict[int, Decide] = {}
        self._witnessed: dict[int, list[int]] = {}
        self._unwitnessed: list[int] = []
        self._keyword_rules: dict[str, list[int]] = {}
        self._direct: list[int] = []
        self._decisions: dict[tuple[int, ...], Decision] = {}
        for position, rule in enumerate(self.rules):
            self._add(position, rule.condition)
        by_field: dict[str, list[tuple[int, Atom]]] = {}
        for atom, number in self._numbers.items():
            by_field.setdefault(atom.field or "", []).append((number, atom))
        self._columns = [(field, FieldClasses(items)) for field, items in by_field.items()]

    def _add(self, position: int, condition: Expression) -> None:
        witnesses = necessary(condition)
        if all(map(_is_classed, atoms(condition))):
            self._deciders[position] = self._decider(condition)
            self._add_witnesses(position, witnesses)
        elif witnesses is not None and all(map(_is_classed, witnesses)):
            self._add_witnesses(position, witnesses)
        elif witnesses is not None and all(_keyword_texts(atom) for atom in witnesses):
            for atom in sorted(witnesses, key=str):
                for text in sorted(_keyword_texts(atom)):
                    self._keyword_rules.setdefault(text, []).append(position)
        else:
            self._direct.append(position)

    def _add_witnesses(self, position: int, witnesses: frozenset[Atom] | None) -> None:
        if witnesses is None:
            self._unwitnessed.append(position)
            return
        for atom in sorted(witnesses, key=str):
            self._witnessed.setdefault(self._number(atom), []).append(position)

    def _number(self, atom: Atom) -> int:
        return self._numbers.setdefault(atom, len(self._numbers))

    def _decider(self, expression: Expression) -> Decide:
        match expression:
            case Atom():
                number = self._number(expression)
                return lambda truths: number in truths
            case Not(part):
                inner = self._decider(part)
                return lambda truths: not inner(truths)
            case And(parts):
                return self._conjunction(parts)
            case Or(parts):
                return self._disjunction(parts)

    def _conjunction(self, parts: tuple[Expression, ...]) -> Decide:
        required = frozenset(self._number(part) for part in parts if isinstance(part, Atom))
        others = tuple(self._decider(part) for part in parts if not isinstance(part, Atom))
        return lambda truths: required <= truths and all(decide(truths) for decide in others)

    def _disjunction(self, parts: tuple[Expression, ...]) -> Decide:
        accepted = frozenset(self._number(part) for part in parts if isinstance(part, Atom))
        others = tuple(self._decider(part) for part in parts if not isinstance(part, Atom))
        return lambda truths: not accepted.isdisjoint(truths) or any(decide(truths) for decide in others)

    def match(self, record: NormalizedRecord, faults: list[RuleFault]) -> tuple[RuleMatch, ...]:
        """The bucket's rules that are true of the record; may raise what an atom raises."""
        decided, open_rules = self._decision(record)
        if self._keyword_rules or self._direct:
            open_rules = (*open_rules, *self._direct, *self._sought(record))
        if not open_rules:
            return tuple(self._found(position, record) for position in decided) if decided else ()
        found = {position: self._found(position, record) for position in decided}
        for position in dict.fromkeys(open_rules):
            match = judge(self.rules[position], record, faults)
            if match is not None:
                found[position] = match
        return tuple(found[position] for position in sorted(found))

    def _found(self, position: int, record: NormalizedRecord) -> RuleMatch:
        rule = self.rules[position]
        return RuleMatch(rule, explain(rule.condition, record))

    def _decision(self, record: NormalizedRecord) -> Decision:
        signature = self._signature(record)
        decision = self._decisions.get(signature)
        if decision is None:
            decision = self._decide(signature)
            if len(self._decisions) >= MAX_DECISIONS:
                self._decisions.clear()
            self._decisions[signature] = decision
            if any(classes.is_full for _, classes in self._columns):
                self._decisions.clear()
                for _, classes in self._columns:
                    classes.forget()
        return decision

    def _signature(self, record: NormalizedRecord) -> tuple[int, ...]:
        get = record.fields.get
        signature = []
        for field, classes in self._columns:
            value = get(field)
            if value.__class__ is str:
                signature.append(classes.class_of_text(value))
            elif value is not None:
                signature.append(classes.class_of(value))
            else:
                signature.append(classes.class_of_text(record.message) if field == "message" else 0)
        return tuple(signature)

    def _decide(self, signature: tuple[int, ...]) -> Decision:
        nothing: frozenset[int] = frozenset()
        truths = nothing.union(
            *(classes.truths(number) for (_, classes), number in zip(self._columns, signature, strict=True) if number)
        )
        candidates = set(self._unwitnessed)
        for number in truths:
            candidates.update(self._witnessed.get(number, ()))
        decided, open_rules = [], []
        for position in sorted(candidates):
            decide = self._deciders.get(position)
            if decide is None:
                open_rules.append(position)
            elif decide(truths):
                decided.append(position)
        return tuple(decided), tuple(open_rules)

    def _sought(self, record: NormalizedRecord) -> list[int]:
        """Rules of which a keyword is somewhere in the record's texts."""
        if not self._keyword_rules:
            return []
        texts = [record.message]
        for value in record.fields.values():
            if value.__class__ is str:
                texts.append(value)
            elif value is not None:
                texts.extend(texts_of(value))
        haystack = folded("\0".join(texts))
        return [
            position for text, positions in self._keyword_rules.items() if text in haystack for position in positions
        ]


def _is_classed(atom: Atom) -> bool:
    """Whether the atom's truth is a function of the value of one field."""
    return atom.field is not None and atom.operator != "fieldref"


def _keyword_texts(atom: Atom) -> frozenset[str]:
    """One of these is in the joined and folded texts of every record that the keyword is true of; none: not known."""
    literal = atom.literal
    if atom.field is not None:
        return frozenset()
    if isinstance(literal, Regex):
        return required_texts(literal)
    if isinstance(literal, Pattern):
        literal = max((p for segment in literal.segments for p in segment if isinstance(p, str)), key=len, default="")
    if not isinstance(literal, str) or not literal or atom.operator == "cidr":
        return frozenset()
    # Lower case of other letters can depend on their neighbours, so a cased literal need not survive it.
    return frozenset({folded(literal)}) if not atom.cased or literal.isascii() else frozenset()
