"""A compiled rule set as bytes: the rules after parsing, and the databases that find their literals.

Whoever reads them needs neither YAML nor pySigma. Bytes of another version of this program, of another engine or
processor, and damaged ones are refused, and the reader compiles anew. No pickle: plain MessagePack, from which only
the data classes and named tuples of this package's rules are made. A checksum finds damage, not malice: read only
files that nobody else can write.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import msgspec

from detect.sigma.rule import RuleSet

MAGIC = b"TSCR1\n"
_CHECK_BYTES = 32
_ROOMS = ("detect.sigma.", "detect.record", "detect.fold.")
# What the first element of an array says it is; classes count from the last one on.
_TUPLE, _SET, _MAP, _FIRST_CLASS = range(4)


class BadCompiled(ValueError):
    """Bytes that are no compiled rule set for this program on this machine."""


@dataclass(frozen=True, slots=True)
class CompiledRules:
    """A rule set and the dumps of its finders, for a FinderShelf of the engine of that name."""

    rules: RuleSet
    engine: str
    dumps: Mapping[bytes, bytes]


class _Content(msgspec.Struct, array_like=True, frozen=True):
    program: str
    digest: str
    engine: str
    classes: list[tuple[str, str, list[str]]]
    rules: Any
    dumps: dict[bytes, bytes]


def pack_compiled(compiled: CompiledRules) -> bytes:
    """The compiled rules as bytes; TypeError for a rule set that holds what cannot be written."""
    writer = _Writer()
    tree = writer.plain(compiled.rules)
    content = _Content(
        program_digest(), compiled.rules.digest, compiled.engine, writer.classes(), tree, dict(compiled.dumps)
    )
    return _sealed(content)


def _sealed(content: _Content) -> bytes:
    body = msgspec.msgpack.encode(content)
    return MAGIC + hashlib.blake2b(body, digest_size=_CHECK_BYTES).digest() + body


def unpack_compiled(data: bytes, engine: str) -> CompiledRules:
    """The inverse of pack_compiled for the same program; BadCompiled for everything else.

    Dumps of another engine are left out: its finders are built anew, which takes seconds where parsing takes longer.
    """
    start = len(MAGIC) + _CHECK_BYTES
    body = memoryview(data)[start:]
    if not data.startswith(MAGIC) or len(data) < start:
        raise BadCompiled("not a compiled rule set")
    if hashlib.blake2b(body, digest_size=_CHECK_BYTES).digest() != data[len(MAGIC) : start]:
        raise BadCompiled("the compiled rule set is damaged")
    try:
        content = msgspec.msgpack.decode(body, type=_Content)
        if content.program != program_digest():
            raise BadCompiled("the rule set was compiled by another version of this program")
        rules = _Reader(content.classes).value(content.rules)
    except (msgspec.MsgspecError, TypeError, ValueError, LookupError, RecursionError, ImportError) as error:
        raise (
            error if isinstance(error, BadCompiled) else BadCompiled(f"the compiled rule set is damaged: {error}")
        ) from error
    if not isinstance(rules, RuleSet) or rules.digest != content.digest:
        raise BadCompiled("the compiled rule set holds something else")
    return CompiledRules(rules, content.engine, content.dumps if content.engine == engine else {})


@cache
def program_digest() -> str:
    """Names the code that compiles and matches, and the parsers it uses: other code may compile otherwise."""
    digest = hashlib.blake2b(digest_size=16)
    for name in ("pysigma", "google-re2", "msgspec"):
        digest.update(f"{name} {version(name)}\n".encode())
    _add_sources(files("detect.sigma"), digest.update)
    return digest.hexdigest()


def _add_sources(folder: Traversable, update: Callable[[bytes], None]) -> None:
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        if entry.is_dir():
            if entry.name != "__pycache__":
                _add_sources(entry, update)
        elif entry.name.endswith((".py", ".yml")):
            content = entry.read_bytes()
            update(f"{entry.name} {len(content)}\n".encode() + content)


class _Writer:
    def __init__(self) -> None:
        self._known: dict[type, int] = {}

    def classes(self) -> list[tuple[str, str, list[str]]]:
        """Every class that was met, in the order of its number."""
        return [(kind.__module__, kind.__qualname__, list(_field_names(kind))) for kind in self._known]

    def plain(self, value: Any) -> Any:
        """The value in arrays and scalars; TypeError for what is neither data nor ours."""
        if value is None or isinstance(value, str | int | float):  # bool is an int
            return value
        kind = type(value)
        if kind is tuple or kind is list:
            return [_TUPLE, *map(self.plain, value)]
        if isinstance(value, frozenset):
            return [_SET, *map(self.plain, sorted(value))]
        if isinstance(value, Mapping):
            return [_MAP, *(self.plain(item) for pair in value.items() for item in pair)]
        names = _field_names(kind)
        number = self._known.setdefault(kind, len(self._known))
        return [_FIRST_CLASS + number, *(self.plain(getattr(value, name)) for name in names)]


class _Reader:
    def __init__(self, classes: list[tuple[str, str, list[str]]]) -> None:
        self._makers = [_maker(*entry) for entry in classes]

    def value(self, plain: Any) -> Any:
        """The inverse of `plain`."""
        if plain.__class__ is not list:
            return plain
        kind, read = plain[0], self.value
        parts = [read(item) if item.__class__ is list else item for item in plain[1:]]
        if kind >= _FIRST_CLASS:
            return self._makers[kind - _FIRST_CLASS](parts)
        if kind == _TUPLE:
            return tuple(parts)
        return frozenset(parts) if kind == _SET else dict(zip(parts[::2], parts[1::2], strict=True))


def _field_names(kind: type) -> tuple[str, ...]:
    if not f"{kind.__module__}.".startswith(_ROOMS):
        raise TypeError(f"{kind.__qualname__} cannot be part of a compiled rule set")
    if is_dataclass(kind):
        return tuple(field.name for field in fields(kind) if field.init)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return tuple(kind._fields)
    raise TypeError(f"{kind.__qualname__} cannot be part of a compiled rule set")


def _maker(module: str, name: str, names: list[str]) -> Callable[[list[Any]], Any]:
    """How to make an object of the class, which must have the same fields still."""
    if not f"{module}.".startswith(_ROOMS) or not name.isidentifier():
        raise BadCompiled(f"{module}.{name} cannot be part of a compiled rule set")
    kind = getattr(importlib.import_module(module), name)
    if not isinstance(kind, type) or list(_field_names(kind)) != names:
        raise BadCompiled(f"{module}.{name} has other fields now")
    if is_dataclass(kind) and any(field.kw_only for field in fields(kind)):
        return lambda parts: kind(**dict(zip(names, parts, strict=True)))
    return lambda parts: kind(*parts)
