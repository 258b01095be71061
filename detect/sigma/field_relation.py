"""Atoms that compare two fields of a record: judged for each record, as part of what its rules are decided by."""

from __future__ import annotations

from collections.abc import Callable

from detect.record import NormalizedRecord
from detect.sigma.naive import holds
from detect.sigma.syntax import Atom, FieldReference
from detect.sigma.values import reference_holds

Judge = Callable[[NormalizedRecord], bool]


def is_relation(atom: Atom) -> bool:
    """Whether the atom compares a field with another."""
    return atom.operator == "fieldref" and atom.field is not None and isinstance(atom.literal, FieldReference)


def relation_judge(atom: Atom) -> Judge:
    """The atom as a function of a record: what `holds` says, quicker for two plain texts."""
    field, reference, cased = atom.field or "", atom.literal, atom.cased
    if not isinstance(reference, FieldReference) or "message" in (field, reference.field):
        return lambda record: holds(atom, record)
    other, folds = reference.field, reference.mode == "equals" and not cased

    def judge(record: NormalizedRecord) -> bool:
        # Of what is a text, or is not there, the quick fields say the same as the others, which few records need.
        fields = record.quick_fields
        mine, others = fields.get(field), fields.get(other)
        if mine is None or others is None:
            return False
        if isinstance(mine, str) and isinstance(others, str):
            if folds:
                return mine == others or mine.lower() == others.lower()
            return reference_holds(reference, mine, others, cased=cased)
        return holds(atom, record)

    return judge
