"""Keywords, which are sought in every text of a record: found by one pass over all of its values together.

The values are packed one after the other as UTF-8 (MessagePack, which escapes nothing) and scanned without regard to
the case of ASCII letters. That finds a little too much, such as a piece of a pattern, so what is found is judged again
on the texts themselves; it never finds too little. Where all texts of a record stand in what it was read from, which
is a line of JSON or the bytes of a flat map, that is scanned before, for pieces of the keywords that JSON writes as
they are (OTLP writes all so): mostly there are none, and no value is touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from detect.record import NormalizedRecord
from detect.sigma.regex_literals import required_texts
from detect.sigma.scanner.engine import FinderShelf
from detect.sigma.scanner.field_scanner import MAX_LITERAL_BYTES, NumberedAtoms
from detect.sigma.scanner.finder import AnchoredLiteral, LiteralFinder
from detect.sigma.syntax import Atom, Pattern, Regex
from detect.sigma.values import atom_holds, searchable_texts, texts_of

_BETWEEN = "\x00"
_NONE: frozenset[int] = frozenset()
_ASCII_RUN = re.compile("[\x01-\x7f]+")
# ASCII letters in lower case, or to a regular expression that ignores case: a record with one is judged the long way.
_FOLDED = tuple(letter.encode() for letter in ("\u212a", "\u0130", "\u017f"))
_FOLDED_NUMBER = (1 << 31) - 1
# What JSON, or a map's text, may write otherwise than a value has it: escapes and what stands between values.
_PLAIN_RUN = re.compile(r"""[^\x00-\x1f\x7f-\U0010ffff"'\\/,{}\[\]]+""")
# An escape that may stand for a letter or sign of a keyword.
_ESCAPES = (b"\\u00", b"\\u212a", b"\\u0130", b"\\u017f")
_OF_NUMBERS = frozenset("0123456789.+-e")
_WORDS_OF_NUMBERS = ("true", "false", "-inf", "nan")


class KeywordScanner:
    """`truths` of a record: the numbers of the keywords of which some text of the record is a witness."""

    def __init__(self, atoms: NumberedAtoms, shelf: FinderShelf) -> None:
        """Every atom must be one that `atom_holds` can judge and that raises for no text."""
        self._atoms = dict(atoms)
        self._whole = {number: atom.literal for number, atom in atoms.items() if _is_whole(atom)}
        self._unaided: list[int] = []
        self._of_numbers: list[tuple[int, str]] = []
        literals: list[AnchoredLiteral] = []
        for number, atom in atoms.items():
            pieces = _pieces(atom)
            if not pieces:
                self._unaided.append(number)
            for piece in pieces:
                literals.append(AnchoredLiteral(number, piece.encode("ascii"), "within"))
                if _is_of_numbers(piece):
                    self._of_numbers.append((number, piece))
        if literals:
            literals += [AnchoredLiteral(_FOLDED_NUMBER, letter, "within") for letter in _FOLDED]
        self._finder = shelf.finder(literals, caseless=True)
        self._is_aided = not self._unaided and not self._of_numbers
        self._of_sent = _sent_finder(atoms.values(), shelf) if self._is_aided else None
        self._encode = msgspec.msgpack.Encoder().encode_into
        self._buffer = bytearray()

    def truths(self, record: NormalizedRecord) -> frozenset[int]:
        """The numbers of the keywords that are true of the record: of its line, or of a value."""
        if self._of_sent is not None and (sent := record.sent):
            data = sent if isinstance(sent, bytes) else sent.encode("utf-8", "surrogatepass")
            if not self._of_sent.find(data):
                return _NONE
        try:
            self._encode((record.own_text, *record.fields.values()), self._buffer)
        except (ValueError, OverflowError, TypeError, RecursionError):
            # A lone surrogate, or a number that MessagePack does not know: there is only the long way.
            return self._judged(set(self._atoms), list(searchable_texts(record)))
        numbers = self._finder.find(self._buffer)
        if not numbers and self._is_aided:
            return _NONE
        found = set(numbers)
        if _FOLDED_NUMBER in found:
            found = set(self._atoms)
        found.update(self._unaided)
        if self._of_numbers:
            self._add_numeric(record, found)
        return self._judged(found, list(searchable_texts(record))) if found else _NONE

    def _add_numeric(self, record: NormalizedRecord, found: set[int]) -> None:
        """Numbers are packed as numbers, and their texts are made here."""
        others = [value for value in record.fields.values() if value.__class__ is not str]
        texts = _BETWEEN.join(text for value in others for text in texts_of(value))
        found.update(number for number, piece in self._of_numbers if piece in texts)

    def _judged(self, found: set[int], texts: Sequence[str]) -> frozenset[int]:
        lowered = _BETWEEN.join(texts).lower()
        return frozenset(number for number in found if self._is_true(number, texts, lowered))

    def _is_true(self, number: int, texts: Sequence[str], lowered: str) -> bool:
        literal = self._whole.get(number)
        if isinstance(literal, str):
            return literal in lowered
        atom = self._atoms[number]
        return any(atom_holds(atom, text) for text in texts)


def _is_whole(atom: Atom) -> bool:
    """Whether the atom is true of a text exactly when its literal is in the lower case of all texts together."""
    literal = atom.literal
    return (
        atom.operator == "contains"
        and not atom.cased
        and isinstance(literal, str)
        and literal != ""
        and _BETWEEN not in literal
    )


def _pieces(atom: Atom) -> list[str]:
    """ASCII texts of which one is in the lower case of a text that the keyword is true of; none: not known."""
    if isinstance(atom.literal, Regex):
        return sorted(text[:MAX_LITERAL_BYTES] for text in _texts(atom))
    texts = _texts(atom)
    # Lower case of letters beyond ASCII can depend on their neighbours; ASCII letters keep theirs.
    best = max((run for text in texts for run in _ASCII_RUN.findall(text)), key=len, default="")
    return [best.lower()[:MAX_LITERAL_BYTES]] if best else []


def _texts(atom: Atom) -> list[str]:
    """Of a regular expression: texts of which one must be there; of anything else, texts that must all be there."""
    literal = atom.literal
    if isinstance(literal, Regex):
        return sorted(required_texts(literal))
    if isinstance(literal, Pattern):
        return [piece for segment in literal.segments for piece in segment if isinstance(piece, str)]
    known = isinstance(literal, str) and atom.operator in ("equals", "contains", "startswith", "endswith")
    return [str(literal)] if known else []


def _is_of_numbers(piece: str) -> bool:
    """Whether the piece can be part of a value that is no text."""
    return _OF_NUMBERS.issuperset(piece) or any(piece in word for word in _WORDS_OF_NUMBERS)


def _sent_finder(atoms: Iterable[Atom], shelf: FinderShelf) -> LiteralFinder | None:
    """Finds something in every line of JSON, and in the bytes of every flat map, with a text of which a keyword is
    true; None where that is not known."""
    signs = {*_FOLDED, *_ESCAPES}
    for atom in atoms:
        pieces = [_plain_piece(text) for text in _texts(atom)]
        if not isinstance(atom.literal, Regex):
            pieces = [max(pieces, key=len, default="")]
        if not pieces or not all(pieces):
            return None
        signs.update(piece.encode("ascii") for piece in pieces)
    numbered = [AnchoredLiteral(number, sign, "within") for number, sign in enumerate(sorted(signs))]
    return shelf.finder(numbered, caseless=True)


def _plain_piece(text: str) -> str:
    """The longest piece of a text that stands in JSON as it is, whatever stands around it; empty for none."""
    pieces = (run.strip(" :") for run in _PLAIN_RUN.findall(text))
    best = max((piece for piece in pieces if not _is_of_numbers(piece)), key=len, default="")
    return best.lower()[:MAX_LITERAL_BYTES]
