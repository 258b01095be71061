"""Log sources and field names that records really get here, read from the parsers' own definitions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Final

from detect.normalize import Definition
from detect.record import Logsource
from detect.sigma.logsource import applies
from detect.sigma.rule import SigmaRule
from detect.sigma.syntax import FieldReference, atoms

_BUILT_IN: Final = (
    Logsource("linux", "", "auditd"),
    Logsource("linux", "process_creation", "auditd"),
    Logsource("linux", "file_event", "auditd"),
    Logsource("linux", "", "syslog"),
    Logsource("linux", "", "auth"),
    Logsource("linux", "", "cron"),
    Logsource("", "webserver", ""),
)
"""What the parsers give that no definition states, since it depends on more than a message."""

_LONG_ENOUGH: Final = 6
"""A shorter name may differ from another in one letter by its own right."""


class Taxonomy:
    """What the definitions say there is. Dynamic log sources (`{field}` in a definition) stand for any name."""

    def __init__(self, definitions: Sequence[Definition]) -> None:
        self._logsources = set(_BUILT_IN)
        self._fields: dict[str, set[str]] = {}
        self._closed: dict[Logsource, set[str]] = {}
        for definition in definitions:
            self._add(definition)
        self._by_lower = {
            product: {name.lower(): name for name in sorted(names)} for product, names in self._fields.items()
        }

    def knows(self, logsource: Logsource) -> bool:
        """Whether some record can have a log source that a rule of this one is meant for."""
        known = (item for item in self._logsources if not item.product.startswith("{"))
        return any(applies(logsource, _filled(item, logsource)) for item in known)

    def findings(self, rule: SigmaRule) -> Iterator[tuple[str, str]]:
        """(check, text) of a rule's log source and of the fields that it names."""
        if not self.knows(rule.logsource):
            parts = zip(("product", "category", "service"), rule.logsource, strict=True)
            shown = ", ".join(f"{part}: {value}" for part, value in parts if value)
            yield "unknown-logsource", f"no parser gives records the log source {{{shown}}}"
            return
        closed = self._closed.get(rule.logsource)
        product = rule.logsource.product
        known: Set[str] = self._fields.get(product, set())
        for name in dict.fromkeys(_fields_of(rule)):
            if name in known:
                if closed is not None and name not in closed:
                    yield "unknown-field", f"{name!r} is no field of this log source"
            elif (close := self._close(product, name)) is not None:
                yield "misspelt-field", f"{name!r} is not known, {close!r} is"
            elif closed is not None:
                yield "unknown-field", f"{name!r} is no field of this log source"

    def _close(self, product: str, name: str) -> str | None:
        names = self._by_lower.get(product, {})
        lower = name.lower()
        if lower in names:
            return names[lower]
        if len(lower) < _LONG_ENOUGH:
            return None
        return next((known for other, known in names.items() if _is_one_slip_away(lower, other)), None)

    def _add(self, definition: Definition) -> None:
        own = definition.logsource
        base = Logsource() if own is None else Logsource(own.product, own.category, own.service)
        if own is not None:
            self._logsources.add(base)
        names: set[str] = set()
        for pattern in definition.patterns:
            names.update(pattern.fields, pattern.rename.values(), _groups(pattern.regex, pattern.rename))
            if pattern.category or pattern.service:
                found = Logsource(base.product, pattern.category or base.category, pattern.service or base.service)
                self._logsources.add(found)
        for service in definition.channels.values():
            self._logsources.add(Logsource("windows", "", service))
        for key, category in definition.categories.items():
            self._logsources.add(Logsource("windows", category, key.partition("/")[0]))
        self._add_newer(definition)
        for fixture in definition.fixtures:
            if definition.format != "object" and not isinstance(fixture.line, dict):
                names.update(fixture.fields)  # what is derived from the groups, as the parts of a request are
            if fixture.logsource is not None:
                stated = fixture.logsource
                self._logsources.add(Logsource(stated.product, stated.category, stated.service))
                self._name(stated.product, fixture.fields)
                self._name(stated.product, fixture.line if isinstance(fixture.line, dict) else ())
        self._name(base.product or definition.name, names)
        if not base.product:
            self._name("", names)
        if definition.format == "line" and own is not None:
            self._closed.setdefault(base, set()).update(names)

    def _add_newer(self, definition: Definition) -> None:
        """Products described as objects, and names that stand for others."""
        for spec in definition.objects:
            own = Logsource(spec.logsource.product, spec.logsource.category, spec.logsource.service)
            self._logsources.add(own)
            self._name(own.product, spec.aliases)
            for case in spec.cases:
                self._name(case.product or own.product, case.aliases)
                parts = zip((case.product, case.category, case.service), own, strict=True)
                self._logsources.add(Logsource(*(part or of_all for part, of_all in parts)))
        for stated in definition.sources.values():
            self._logsources.add(Logsource(stated.product, stated.category, stated.service))
        for aliases in definition.aliases.values():
            self._name(definition.name, aliases)
            for others in aliases.values():
                self._name(definition.name, others)

    def _name(self, product: str, names: Iterable[str]) -> None:
        self._fields.setdefault(product, set()).update(names)


def _filled(known: Logsource, wanted: Logsource) -> Logsource:
    """The log source with what a definition leaves to a field taken as the rule wants it."""
    return Logsource(*(want if part.startswith("{") else part for part, want in zip(known, wanted, strict=True)))


def _groups(regex: str, rename: dict[str, str]) -> Iterator[str]:
    for piece in regex.split("(?P<")[1:]:
        name = piece.partition(">")[0]
        if name not in rename:
            yield name


def _fields_of(rule: SigmaRule) -> Iterator[str]:
    for atom in atoms(rule.condition):
        if atom.field is not None:
            yield atom.field
        if isinstance(atom.literal, FieldReference):
            yield atom.literal.field


def _is_one_slip_away(name: str, other: str) -> bool:
    """Whether one letter too many, too few or wrong, or two exchanged, is all the difference."""
    if abs(len(name) - len(other)) > 1 or name[-1:].isdigit() or other[-1:].isdigit():
        return False
    start = 0
    while start < min(len(name), len(other)) and name[start] == other[start]:
        start += 1
    if len(name) == len(other):
        exchanged = name[start : start + 2] == other[start : start + 2][::-1]
        return name[start + 1 :] == other[start + 1 :] or (exchanged and name[start + 2 :] == other[start + 2 :])
    longer, shorter = (name, other) if len(name) > len(other) else (other, name)
    return longer[start + 1 :] == shorter[start:]
