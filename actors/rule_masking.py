"""A rule set for a tenant whose records hold tokens: every literal is looked for as masked records have it. Pure.

A literal is replaced by all forms in which the tenant's records may hold it: masked by each key that its agents have,
and in clear, for a system log that comes through another door masks nothing. Networks are looked for in clear only
while an agent sends clear records, because tokens of one network are addresses of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from actors.rule_check import RuleCatalog, catalog_of
from agent.masking import Masker, MaskingKey, default_policy
from agent.masking.literals import LiteralTokens, Untranslatable, is_part_of_address
from detect.sigma.load import load_rule_set
from detect.sigma.other_forms import LiteralForms, forms_source, key_of, literal_forms, take_forms, with_forms
from detect.sigma.overlay import take_changes
from detect.sigma.pack import pack_bytes, source_digest, unpack
from detect.sigma.rule import RuleSet
from detect.sigma.syntax import Atom, AtomLiteral, Pattern, Regex, Segment, atoms
from detect.sigma.values import text_of


@dataclass(frozen=True, slots=True)
class RecordMasks:
    """How a tenant's records are masked: by any of the keys, or not at all (`clear`: some agent masks nothing).

    `state` names that as the store does (store/masking.py), with the policy; equal states are masked alike.
    """

    keys: tuple[MaskingKey, ...]
    clear: bool
    state: str

    @property
    def meaning(self) -> tuple[str, ...]:
        """What tells two tenants' masks apart: the state, and the fingerprint of every key."""
        return self.state, *(key.fingerprint for key in self.keys)


class MaskedSet(NamedTuple):
    """A pack of rules that look for tokens too, and its catalogue."""

    pack: bytes
    catalog: RuleCatalog


def policy_name() -> str:
    """Names the policy that agents are taken to mask by: this program's own."""
    return default_policy().digest[:16]


def masked_set(pack: bytes, masks: RecordMasks) -> MaskedSet:
    """A tenant's rule set with the forms that its literals have in masked records, checked. Raises BadPack."""
    _, sources, _ = take_forms(unpack(pack))
    changes, others, faults = take_changes(sources)
    full = load_rule_set(others)
    found = forms_of(full, masks)
    widened = [*sources, *forms_source(found)]
    packed = pack_bytes(widened)
    unpack(packed)  # what nobody can read again must not be put in force
    catalog = catalog_of(source_digest(widened), changes, with_forms(full, found), faults)
    return MaskedSet(packed, catalog)


def masked_sources(sources: Sequence[tuple[str, str]], masks: RecordMasks, before: RuleSet) -> list[tuple[str, str]]:
    """Sources of a rule set, by path, with forms also for those literals that its rules had not `before`."""
    known, plain, _ = take_forms(sources)
    _, others, _ = take_changes(plain)
    had = {key_of(atom) for rule in before.rules for atom in atoms(rule.condition)} | {entry.key for entry in known}
    added = (entry for entry in forms_of(load_rule_set(others), masks) if entry.key not in had)
    return sorted([*plain, *forms_source([*known, *added])])


def forms_of(rules: RuleSet, masks: RecordMasks) -> list[LiteralForms]:
    """The literals of the rules that stand otherwise in masked records, and those of which nobody can say how."""
    rewriters = [_Rewriting(Masker(key)) for key in masks.keys]
    seen: dict[tuple[object, ...], LiteralForms | None] = {}
    for atom in (atom for rule in rules.rules for atom in atoms(rule.condition)):
        literal = atom.literal
        # By its type too: 1 and 1.0 and True are equal keys.
        key = (atom.field, atom.operator, type(literal), literal, atom.cased)
        if key not in seen:
            seen[key] = _entry(atom, rewriters, masks.clear)
    return [entry for entry in seen.values() if entry is not None]


def _entry(atom: Atom, rewriters: Sequence[_Rewriting], clear: bool) -> LiteralForms | None:
    forms: list[AtomLiteral] = [] if _is_wide(atom) and not clear else [atom.literal]
    lost = ""
    for rewriting in rewriters:
        try:
            forms.append(rewriting.literal(atom))
        except Untranslatable as error:
            lost = f"masked records never hold what it looks for: {error}"
    distinct = list(dict.fromkeys(forms))
    if lost and not any(form == atom.literal for form in distinct):
        distinct.insert(0, atom.literal)
    if distinct == [atom.literal]:
        return literal_forms(atom, (), lost) if lost else None
    return literal_forms(atom, distinct, lost)


def _is_wide(atom: Atom) -> bool:
    """Whether many addresses have the literal."""
    match atom.operator, atom.literal:
        case "cidr", _:
            return True
        case "startswith" | "contains" | "endswith", str(text):
            return is_part_of_address(text)
        case "pattern", Pattern(segments):
            return any(isinstance(piece, str) and is_part_of_address(piece) for part in segments for piece in part)
        case _:
            return False


class _Rewriting:
    """Literals as one key masks them."""

    def __init__(self, masker: Masker) -> None:
        self._tokens = LiteralTokens(masker)

    def literal(self, atom: Atom) -> AtomLiteral:
        """The masked literal of an atom, the same where masking changes nothing. Raises Untranslatable."""
        field = atom.field or ""
        match atom.operator, atom.literal:
            case "cidr", str(network):
                return self._tokens.network(network)
            case "equals" | "contains" | "startswith" | "endswith", str(text):
                starts = atom.operator in ("equals", "startswith") and atom.field is not None
                ends = atom.operator in ("equals", "endswith") and atom.field is not None
                return self._text(field, text, open_start=not starts, open_end=not ends, cased=atom.cased)
            case "pattern", Pattern(segments):
                return Pattern(tuple(self._segments(field, segments, atom.cased)))
            case "number", int() | float() as number:
                text = text_of(number)
                masked = self._text(field, text, open_start=False, open_end=False, cased=atom.cased)
                return number if masked == text else masked
            case "regex", Regex(pattern):
                self._tokens.check_regex(field, pattern)
        return atom.literal

    def _segments(self, field: str, segments: tuple[Segment, ...], cased: bool) -> Iterator[Segment]:
        for place, segment in enumerate(segments):
            before, after = place > 0, place < len(segments) - 1
            last = len(segment) - 1
            pieces: list[str | int] = []
            for number, piece in enumerate(segment):
                match piece:
                    case str():
                        start, end = before or number > 0, after or number < last
                        pieces.append(self._text(field, piece, open_start=start, open_end=end, cased=cased))
                    case int():
                        pieces.append(piece)
                    case _:
                        assert_never(piece)
            yield tuple(pieces)

    def _text(self, field: str, text: str, *, open_start: bool, open_end: bool, cased: bool) -> str:
        masked = self._tokens.literal(field, text, open_start=open_start, open_end=open_end)
        return masked if cased else masked.lower()
