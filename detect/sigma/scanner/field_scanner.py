"""The atoms of one field, each judged the quickest way that is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from detect.sigma.regex import VALUE_LIMIT, compiled, visible
from detect.sigma.regex_literals import folded, required_texts
from detect.sigma.scanner.engine import FinderShelf
from detect.sigma.scanner.finder import Anchor, AnchoredLiteral, LiteralFinder
from detect.sigma.scanner.networks import NetworkTable
from detect.sigma.scanner.pattern_judge import pattern_judge
from detect.sigma.scanner.plain_pattern import is_plain, is_plain_text, line_of, shortest
from detect.sigma.syntax import Atom, Pattern, Regex
from detect.sigma.values import atom_holds, number_of

NumberedAtoms = Mapping[int, Atom]
Verify = Callable[[str, str], bool]
"""Whether an atom is true of a text, given as it is and in lower case."""

MAX_LITERAL_BYTES = 512
"""Engines get to see the beginning of longer literals (the end of those that stand at the end)."""
_ANCHORS: dict[str, Anchor] = {"contains": "within", "startswith": "start", "endswith": "end"}
_NUMBER_SIGNS = frozenset("+-0123456789")
_LONG_S = "\u017f"


class FieldScanner:
    """`truths` of a text: the numbers of the atoms that are true of it, as `atom_holds` says one by one.

    Literals are sought in the text's lower case. Where that finds only what may be true (a cased literal, a pattern's
    longest piece, a text that a regular expression requires), the atom itself decides.
    """

    def __init__(self, atoms: NumberedAtoms, shelf: FinderShelf) -> None:
        """Every atom must be one that `atom_holds` can judge and that raises for no text."""
        self._always: list[int] = []
        self._equal: dict[str, list[int]] = {}
        self._equal_cased: dict[str, list[int]] = {}
        self._equal_number: dict[float, list[int]] = {}
        self._compared: list[tuple[int, Atom]] = []
        self._networks: list[tuple[int, str]] = []
        self._verify: dict[int, Verify] = {}
        self._unaided: list[tuple[int, Verify]] = []
        self._regexes = {number: atom.literal for number, atom in atoms.items() if isinstance(atom.literal, Regex)}
        plain = {number: regex for number, regex in self._regexes.items() if is_plain(regex)}
        self._patterns: LiteralFinder | None = None
        self._plain: frozenset[int] = frozenset()
        if (known := shelf.pattern_finder(plain)) is not None:
            self._patterns, self._plain = known
        self._plain_texts: list[tuple[int, frozenset[str]]] = []
        literals = [literal for number, atom in atoms.items() for literal in self._place(number, atom)]
        self._finder = shelf.finder(literals) if literals else None
        self._doubtful = frozenset(self._verify)
        self._table = NetworkTable(self._networks) if self._networks else None
        self._reads_numbers = bool(self._equal_number or self._compared)
        others = (self._always, self._regexes, self._doubtful, self._equal, self._equal_cased, self._networks,
                  self._unaided)  # fmt: skip
        self._only_seeks = self._finder is not None and not self._reads_numbers and not any(others)

    def _place(self, number: int, atom: Atom) -> Iterator[AnchoredLiteral]:
        """Puts the atom where it is judged; yields the literals that must be sought for it."""
        match (atom.operator, atom.literal):
            case ("present", _):
                self._always.append(number)
            case ("equals", str(literal)):
                table = self._equal_cased if atom.cased else self._equal
                table.setdefault(literal, []).append(number)
            case ("number", int(value) | float(value)):
                self._equal_number.setdefault(value, []).append(number)
            case ("gt" | "gte" | "lt" | "lte", int() | float()):
                self._compared.append((number, atom))
            case ("cidr", str(network)):
                self._networks.append((number, network))
            case ("contains" | "startswith" | "endswith" as operator, str(literal)) if literal:
                yield from self._string(number, atom, literal, _ANCHORS[operator])
            case ("pattern", Pattern() as pattern):
                yield from self._pattern(number, atom, pattern)
            case ("regex", Regex() as regex):
                yield from self._regex(number, regex)
            case _:
                self._unaided.append((number, _judge(atom)))

    def _string(self, number: int, atom: Atom, literal: str, anchor: Anchor) -> Iterator[AnchoredLiteral]:
        # Lower case of letters beyond ASCII can depend on their neighbours, so a cased literal need not survive it.
        if atom.cased and not literal.isascii():
            self._unaided.append((number, _judge(atom)))
            return
        sought = _bytes(literal.lower() if atom.cased else literal)
        if atom.cased or len(sought) > MAX_LITERAL_BYTES:
            self._verify[number] = _judge(atom)
        yield AnchoredLiteral(number, _cut(sought, anchor), anchor)

    def _pattern(self, number: int, atom: Atom, pattern: Pattern) -> Iterator[AnchoredLiteral]:
        judge = _judge(atom) if atom.cased else pattern_judge(pattern)
        piece, anchor = _telling_piece(pattern)
        if not piece or (atom.cased and not piece.isascii()):
            self._unaided.append((number, judge))
            return
        self._verify[number] = judge
        sought = _bytes(piece.lower() if atom.cased else piece)
        yield AnchoredLiteral(number, _cut(sought, anchor), anchor)

    def _regex(self, number: int, regex: Regex) -> Iterator[AnchoredLiteral]:
        judge = _regex_judge(regex)

        texts = required_texts(regex)
        if number in self._plain:
            self._verify[number] = judge
            self._plain_texts.append((number, texts))
            return
        if not texts:
            self._unaided.append((number, judge))
            return
        self._verify[number] = judge
        for text in sorted(texts):
            yield AnchoredLiteral(number, _bytes(text)[:MAX_LITERAL_BYTES], "within")

    def truths(self, text: str) -> frozenset[int]:
        """The numbers of the atoms that are true of the text."""
        lowered = text.lower()
        sought = [] if self._finder is None else self._finder.find_text(lowered)
        if self._only_seeks:
            return frozenset(sought)
        found = {*self._always, *sought}
        if self._regexes:
            self._add_possible_regexes(text, lowered, found)
        if doubtful := self._doubtful.intersection(found):
            for number in doubtful:
                if not self._verify[number](text, lowered):
                    found.discard(number)
        if lowered in self._equal:
            found.update(self._equal[lowered])
        if text in self._equal_cased:
            found.update(self._equal_cased[text])
        if self._reads_numbers and text[:1] in _NUMBER_SIGNS:
            self._add_numeric(text, found)
        if self._table is not None:
            found.update(self._table.containing(text))
        for number, judge in self._unaided:
            if judge(text, lowered):
                found.add(number)
        return frozenset(found)

    def _add_possible_regexes(self, text: str, lowered: str, found: set[int]) -> None:
        if self._patterns is not None and is_plain_text(text):
            found.update(self._patterns.find(visible(text)))
            return  # it is ASCII
        if self._plain_texts:
            seen = folded(text)
            found.update(
                number for number, texts in self._plain_texts if not texts or any(part in seen for part in texts)
            )
        # The texts that a regular expression requires are those of folded text: the long s stands for an s.
        if not text.isascii() and _LONG_S in lowered:
            found.update(number for number in self._regexes if number in self._verify)

    def _add_numeric(self, text: str, found: set[int]) -> None:
        value = number_of(text)
        if value is not None:
            found.update(self._equal_number.get(value, ()))
            found.update(number for number, atom in self._compared if atom_holds(atom, text))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _cut(literal: bytes, anchor: Anchor) -> bytes:
    return literal[-MAX_LITERAL_BYTES:] if anchor == "end" else literal[:MAX_LITERAL_BYTES]


def _judge(atom: Atom) -> Verify:
    return lambda text, _lowered: atom_holds(atom, text)


def _regex_judge(regex: Regex) -> Verify:
    search, least, line = compiled(regex).search, shortest(regex), line_of(regex)

    def judge(text: str, _lowered: str) -> bool:
        if len(text) < least:
            return False
        if line is not None and text.isascii():
            return any(len(part) >= line for part in text[:VALUE_LIMIT].split("\n"))
        return search(visible(text)) is not None

    return judge


def _telling_piece(pattern: Pattern) -> tuple[str, Anchor]:
    """The longest literal of the pattern, and where it must stand in a text that the pattern is true of."""
    best: tuple[str, Anchor] = ("", "within")
    last = len(pattern.segments) - 1
    for place, segment in enumerate(pattern.segments):
        for position, piece in enumerate(segment):
            if isinstance(piece, str) and len(piece) > len(best[0]):
                at_end = place == last and position == len(segment) - 1
                best = (piece, "start" if place == position == 0 else "end" if at_end else "within")
    return best
