"""Parsers as data: what a definition file may hold, and how it is compiled.

A file describes the messages of some programs (`apps`), messages with a known beginning whatever program wrote them
(`prefixes`), whole lines (`format: line`), or objects (`format: object`, see product.py). Every pattern is a regular
expression with named groups; a group's name is the field's name (`rename` gives names that Python's `re` does not
allow). Each file carries its fixtures, and the tests run them. Patterns must be linear: at most one unbounded `.*`
between two anchors, no nested quantifier.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
import yaml

from detect.normalize.derive import DERIVATIONS, Derivation
from detect.record import EntityKind, EntityRole, FieldValue, Logsource, Outcome

Activity = Literal[
    "authentication", "session", "process", "http", "file", "account", "service", "schedule", "network", "other"
]


class ParserError(ValueError):
    """A definition file that cannot be used: which file, which pattern, why."""


class EntitySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The field `field` names an entity of that kind, in that role."""

    kind: EntityKind
    field: str
    role: EntityRole = ""


class PatternSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One shape of a message. `first` is its first word where that never varies: it spares trying the others."""

    name: str
    regex: str
    first: str = ""
    rename: dict[str, str] = {}
    fields: dict[str, str | bool | int] = {}
    derive: str = ""
    activity: Activity | None = None
    outcome: Outcome = "unknown"
    category: str = ""
    service: str = ""
    entities: tuple[EntitySpec, ...] = ()


class LogsourceSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sigma's logsource; parts left out are empty."""

    product: str = ""
    category: str = ""
    service: str = ""


class Fixture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line (or a structured body) and what must come of it. Only the fields that are named are compared."""

    line: str | dict[str, Any]
    name: str = ""
    logsource: LogsourceSpec | None = None
    fields: dict[str, Any] = {}
    activity: Activity | None = None
    outcome: Outcome | None = None
    entities: tuple[tuple[str, ...], ...] = ()
    attributes: dict[str, Any] = {}
    resource: dict[str, Any] = {}


class CaseSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is so of an object when its fields have these texts; see product.py. Parts left out say nothing."""

    when: dict[str, str | tuple[str, ...]]
    product: str = ""
    category: str = ""
    service: str = ""
    activity: Activity | None = None
    outcome: Outcome | None = None
    aliases: dict[str, tuple[str, ...]] = {}
    entities: tuple[EntitySpec, ...] = ()


class ObjectSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The objects of one product; see product.py. Those of a lower rank are tried first.

    `unwrap`: fields whose names begin so are also known without that beginning. `aliases` give a field that has no
    value that of the first of the others that has one. `message` is a template with fields in braces.
    """

    name: str
    when: dict[str, str | tuple[str, ...]]
    logsource: LogsourceSpec = LogsourceSpec()
    rank: int = 0
    unwrap: tuple[str, ...] = ()
    derive: str = ""
    message: str = ""
    activity: Activity | None = None
    outcome: Outcome | None = None
    aliases: dict[str, tuple[str, ...]] = {}
    entities: tuple[EntitySpec, ...] = ()
    cases: tuple[CaseSpec, ...] = ()


class Definition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file. Without `logsource` the messages keep that of the program that wrote them."""

    name: str
    format: Literal["message", "line", "object", "builtin"] = "message"
    apps: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    logsource: LogsourceSpec | None = None
    activity: Activity = "other"
    patterns: tuple[PatternSpec, ...] = ()
    objects: tuple[ObjectSpec, ...] = ()
    fixtures: tuple[Fixture, ...] = ()
    channels: dict[str, str] = {}
    categories: dict[str, str] = {}
    activities: dict[str, Activity] = {}
    sources: dict[str, LogsourceSpec] = {}
    aliases: dict[str, dict[str, tuple[str, ...]]] = {}
    joins: dict[str, tuple[tuple[str, str, str], ...]] = {}
    hives: dict[str, str] = {}
    hashes: dict[str, str] = {}
    hash_entities: frozenset[str] = frozenset()
    levels: dict[str, int] = {}
    entities: tuple[EntitySpec, ...] = ()


class Pattern(msgspec.Struct, frozen=True, gc=False):
    """A compiled PatternSpec; `names` has a field name for every group, in order."""

    name: str
    match: Callable[[str], re.Match[str] | None]
    names: tuple[str, ...]
    constants: dict[str, FieldValue]
    derive: Derivation | None
    activity: Activity
    outcome: Outcome
    category: str
    service: str
    entities: tuple[EntitySpec, ...]


class Program(msgspec.Struct, frozen=True):
    """The messages of one program: candidates by their first word, and those to try for any other."""

    logsource: Logsource | None
    activity: Activity
    by_word: dict[str, tuple[Pattern, ...]]
    others: tuple[Pattern, ...]

    def recognise(self, message: str) -> tuple[Pattern, re.Match[str]] | None:
        """The first pattern that the message meets, with its match."""
        word = message.partition(" ")[0]
        for pattern in self.by_word.get(word, self.others):
            if match := pattern.match(message):
                return pattern, match
        return None


def load_parsers(texts: Mapping[str, str]) -> tuple[Definition, ...]:
    """Definitions from the texts of their files (file name to YAML); raises ParserError naming file and place."""
    definitions = []
    for file, text in texts.items():
        try:
            definitions.append(msgspec.convert(yaml.load(text, yaml.CSafeLoader), Definition))
        except (msgspec.ValidationError, yaml.YAMLError) as error:
            raise ParserError(f"{file}: {error}") from error
    return tuple(definitions)


def compile_program(definition: Definition) -> Program:
    """The definition's patterns, ready to run; raises ParserError for an expression that does not compile."""
    compiled = [(spec.first, _compile(definition, spec)) for spec in definition.patterns]
    words = {first for first, _ in compiled if first}
    spec = definition.logsource
    return Program(
        Logsource(spec.product, spec.category, spec.service) if spec is not None else None,
        definition.activity,
        {word: tuple(pattern for first, pattern in compiled if first in (word, "")) for word in words},
        tuple(pattern for first, pattern in compiled if not first),
    )


def _compile(definition: Definition, spec: PatternSpec) -> Pattern:
    name = f"{definition.name}/{spec.name}"
    try:
        regex = re.compile(spec.regex, re.DOTALL)
    except re.error as error:
        raise ParserError(f"{name}: the expression does not compile: {error}") from error
    if len(regex.groupindex) != regex.groups:
        raise ParserError(f"{name}: every group needs a name; write (?:...) for the others")
    if spec.derive and spec.derive not in DERIVATIONS:
        raise ParserError(f"{name}: there is no derivation {spec.derive!r}; known are {', '.join(sorted(DERIVATIONS))}")
    return Pattern(
        name,
        regex.match,
        tuple(spec.rename.get(group, group) for group in regex.groupindex),
        dict(spec.fields),
        DERIVATIONS.get(spec.derive),
        spec.activity or definition.activity,
        spec.outcome,
        spec.category,
        spec.service,
        spec.entities,
    )
