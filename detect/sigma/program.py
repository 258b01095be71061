"""A rule set as numbers: every distinct atom once, which atoms can make a rule true, and how each rule is decided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from ipaddress import ip_network

from detect.sigma.condition import Decide, decider
from detect.sigma.explanation import Explainer, Explanation
from detect.sigma.field_relation import Judge, is_relation, relation_judge
from detect.sigma.regex import BadRegex, compiled
from detect.sigma.rule import SigmaRule
from detect.sigma.syntax import Atom, Pattern, Regex, atoms
from detect.sigma.witness import WitnessChoice

MOST_LEADING = 64
"""Rules of more atoms than that are followed up, however often it comes to that."""
_TEXT_OPERATORS = frozenset({"equals", "contains", "startswith", "endswith"})
_NUMBER_OPERATORS = frozenset({"number", "gt", "gte", "lt", "lte"})


class RuleProgram:
    """What all log sources share.

    Rules are known by their place in `rules`, atoms by their number; `relations` judge the atoms that compare two
    fields. `leading_of` a rule are the atoms that every value is looked at for: its witnesses, or all of its atoms
    where the witnesses are true too often to be waited for. Atoms of a kind that is not known here have no number:
    rules with such an atom are `open`, which means that the reference judges them once a witness allows it, or
    `direct`, which means that it always does.
    """

    def __init__(self, rules: Sequence[SigmaRule]) -> None:
        self.rules = tuple(rules)
        self.numbers: dict[Atom, int] = {}
        self.atoms: list[Atom] = []
        self.relations: dict[int, Judge] = {}
        self.witnessed: dict[int, tuple[int, ...]] = {}
        self.unwitnessed: set[int] = set()
        self.open: set[int] = set()
        self.direct: set[int] = set()
        self.atoms_of: list[tuple[int, ...]] = []
        self.witnesses_of: list[tuple[int, ...]] = []
        self.leading_of: list[tuple[int, ...]] = []
        self._deciders: dict[int, Decide] = {}
        self._explainers: dict[int, Explainer] = {}
        witnessed: dict[int, list[int]] = {}
        choice = WitnessChoice(rule.condition for rule in self.rules)
        for place, rule in enumerate(self.rules):
            self.witnesses_of.append(tuple(self._add(place, rule, choice)))
            for number in self.witnesses_of[place]:
                witnessed.setdefault(number, []).append(place)
            self.leading_of.append(self._leading(place, choice))
        self.witnessed = {number: tuple(places) for number, places in witnessed.items()}

    def _add(self, place: int, rule: SigmaRule, choice: WitnessChoice) -> Iterator[int]:
        """Sorts the rule in; yields the numbers of its witnesses."""
        found = tuple(dict.fromkeys(atoms(rule.condition)))
        known = [atom for atom in found if is_known(atom)]
        witnesses = choice.witnesses(rule.condition)
        if len(known) < len(found):
            led_to = witnesses is not None and all(map(is_known, witnesses))
            if not led_to or any(map(_raises, found)):
                self.direct.add(place)
                self.atoms_of.append(())
                return
            self.open.add(place)
            known = [atom for atom in known if witnesses is not None and atom in witnesses]
        self.atoms_of.append(tuple(map(self._number, known)))
        if witnesses is None:
            self.unwitnessed.add(place)
        else:
            yield from sorted(map(self._number, witnesses))

    def _leading(self, place: int, choice: WitnessChoice) -> tuple[int, ...]:
        witnesses = self.witnesses_of[place]
        frequent = not witnesses or choice.tell_little(frozenset(self.atoms[number] for number in witnesses))
        if not frequent or len(self.atoms_of[place]) > MOST_LEADING:
            return witnesses
        return tuple(number for number in self.atoms_of[place] if number not in self.relations or number in witnesses)

    def _number(self, atom: Atom) -> int:
        number = self.numbers.get(atom)
        if number is None:
            number = self.numbers[atom] = len(self.atoms)
            self.atoms.append(atom)
            if is_relation(atom):
                self.relations[number] = relation_judge(atom)
        return number

    def decide(self, place: int) -> Decide:
        """The rule's condition as a function of the atoms that are true; not for open and direct rules."""
        decide = self._deciders.get(place)
        if decide is None:
            decide = self._deciders[place] = decider(self.rules[place].condition, self.numbers)
        return decide

    def explain(self, place: int, truths: AbstractSet[int]) -> Explanation:
        """Why the rule is true when exactly these atoms are."""
        explainer = self._explainers.get(place)
        if explainer is None:
            explainer = self._explainers[place] = Explainer(self.rules[place].condition, self.numbers)
        return explainer.explain(truths)


def is_known(atom: Atom) -> bool:
    """Whether the atom compares two fields, or is a function of one text that the scanners know; and raises never."""
    operator, literal = atom.operator, atom.literal
    if is_relation(atom):
        return True
    if operator in ("present", "timepart"):
        return True
    if operator in _TEXT_OPERATORS:
        return isinstance(literal, str)
    if operator == "pattern":
        return isinstance(literal, Pattern)
    if operator in _NUMBER_OPERATORS:
        return isinstance(literal, int | float)
    return operator in ("regex", "cidr") and isinstance(literal, Regex | str) and not _raises(atom)


def _raises(atom: Atom) -> bool:
    """Whether judging the atom can only fail."""
    try:
        if atom.operator == "regex" and isinstance(atom.literal, Regex):
            compiled(atom.literal)
        elif atom.operator == "cidr":
            ip_network(atom.literal)  # type: ignore[arg-type]  # whatever it is: ValueError unless it is a network
    except (BadRegex, ValueError):
        return True
    return False
