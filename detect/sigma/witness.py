"""Witnesses: atoms of which at least one is true whenever a rule is, chosen so that they are rarely true.

A record concerns a rule only when a witness of the rule is true of it. How often an atom is true is guessed from the
rules alone: a long text is rarer than a short one, and what many rules ask for is found often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import log2

from detect.sigma.syntax import And, Atom, Expression, Not, Operator, Or, Pattern, atoms

MANY_WITNESSES = 48
"""A rule that lists so many texts is led to by them: where they were looked for last, all would be sought."""
_LONGEST = 24
_SHARED = 3.0
_EVERYWHERE_WEIGHT = -20
# A short word that a field must equal is one of few that it ever has (High, true); the end of a path is telling.
_WEIGHTS: dict[Operator, int] = {
    "equals": 4, "endswith": 6, "regex": 4, "cidr": 8, "present": -40, "fieldref": -60,
}  # fmt: skip
# Fields of which all values are frequent, and programs that run on every machine.
_TELLS_LITTLE = frozenset({
    "EventID", "Channel", "Provider_Name", "Company", "Product", "IntegrityLevel", "LogonType", "SignatureStatus",
    "Signed", "Status", "User", "eventSource",
})  # fmt: skip
_EVERYWHERE = frozenset({
    "svchost.exe", "services.exe", "cmd.exe", "powershell.exe", "pwsh.exe", "explorer.exe", "conhost.exe",
    "rundll32.exe", "taskhostw.exe", "wmiprvse.exe", "msiexec.exe", "net.exe", "net1.exe", "chrome.exe", "msedge.exe",
    "ntdll.dll", "kernel32.dll", "kernelbase.dll", "ntdll.dll+", "kernel32.dll+", "kernelbase.dll+", "system32",
    "syswow64", "windows", "appdata", "users", "currentversion", "control", "services",
})  # fmt: skip


class WitnessChoice:
    """Chooses the witnesses of each condition, knowing all of them."""

    def __init__(self, conditions: Iterable[Expression]) -> None:
        self._askers: Counter[Atom] = Counter()
        for condition in conditions:
            self._askers.update(set(atoms(condition)))

    def witnesses(self, expression: Expression) -> frozenset[Atom] | None:
        """Atoms of which one is true whenever the expression is; None when none are known.

        A conjunction offers the witnesses of its most telling part.
        """
        match expression:
            case Atom():
                return frozenset((expression,))
            case Not():
                return None
            case And(parts):
                offers = [offer for offer in map(self.witnesses, parts) if offer is not None]
                return max(offers, key=self._selectivity) if len(offers) > 1 else offers[0] if offers else None
            case Or(parts):
                union: set[Atom] = set()
                for part in parts:
                    offer = self.witnesses(part)
                    if offer is None:
                        return None
                    union |= offer
                return frozenset(union)

    def tell_little(self, witnesses: frozenset[Atom]) -> bool:
        """Whether some of them are expected to be true of many records."""
        return min(map(self._rarity, witnesses)) < 0

    def _selectivity(self, witnesses: frozenset[Atom]) -> tuple[bool, float, int]:
        """Whether they are many, how rarely the weakest one is expected to be true, and how few there are."""
        return len(witnesses) > MANY_WITNESSES, min(map(self._rarity, witnesses)), -len(witnesses)

    def _rarity(self, atom: Atom) -> float:
        literal, length = atom.literal, 0
        if isinstance(literal, str):
            length = len(literal)
        elif isinstance(literal, Pattern):
            length = max(
                (len(piece) for segment in literal.segments for piece in segment if isinstance(piece, str)), default=0
            )
        rarity = min(length, _LONGEST) + _WEIGHTS.get(atom.operator, 0) - _SHARED * log2(self._askers[atom] or 1)
        if atom.field in _TELLS_LITTLE or (
            isinstance(literal, str) and literal.rstrip("\\").rpartition("\\")[2] in _EVERYWHERE
        ):
            rarity += _EVERYWHERE_WEIGHT
        return rarity
