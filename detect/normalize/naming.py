"""Whom and what an event names, remembered by the values that say so: the same host, user and program each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from operator import itemgetter
from typing import Any, Final, NamedTuple

from detect.normalize.entities import MAX_ENTITY_LENGTH, distinct, read_entity
from detect.record import Entity, FieldValue

MAX_KNOWN: Final = 16384
MAX_KEY_CHARACTERS: Final = 512
MAX_HASHES: Final = 1024
MAX_HASHED: Final = 4096

Reader = Callable[[str], Entity | None]
Digests = tuple[tuple[str, str], ...]


class Naming(NamedTuple):
    """The fields that name someone or something in the events of one form; a reader None marks a list of hashes."""

    number: int
    names: tuple[str, ...]
    values: Callable[[Mapping[str, FieldValue]], Any]
    readers: tuple[Reader | None, ...]


class Namings:
    """Reads what fields name. It remembers at most MAX_KNOWN combinations of short values, in some 25 megabytes."""

    def __init__(self, hashes: Mapping[str, str], hash_entities: frozenset[str]) -> None:
        """`hashes` maps an algorithm in lower case to its field; those in `hash_entities` are entities too."""
        self._algorithms = hashes
        self._hash_entities = hash_entities
        # Never the same number twice: a naming that was forgotten finds nothing that is another's.
        self._numbers = count()
        self._namings: dict[tuple[tuple[str, Reader | None], ...], Naming] = {}
        self._known: dict[tuple[int, Any], tuple[Entity, ...]] = {}
        self._digests: dict[str, Digests] = {}

    def naming(self, sources: tuple[tuple[str, Reader | None], ...]) -> Naming | None:
        """The naming by these fields in this order; None where there are none."""
        if not sources:
            return None
        found = self._namings.get(sources)
        if found is None:
            if len(self._namings) >= MAX_KNOWN:
                self.forget()
            names = tuple(name for name, _ in sources)
            found = Naming(next(self._numbers), names, itemgetter(*names), tuple(read for _, read in sources))
            self._namings[sources] = found
        return found

    def forget(self) -> None:
        """Drop all that is remembered."""
        self._namings.clear()
        self._known.clear()
        self._digests.clear()

    def read(self, naming: Naming, fields: Mapping[str, FieldValue]) -> tuple[Entity, ...]:
        """The entities that the fields name, each once."""
        try:
            key = (naming.number, naming.values(fields))
            return self._known[key]
        except KeyError:
            return self._read(naming, fields)
        except TypeError:  # a list among the values
            return self._look(naming, fields)

    def _read(self, naming: Naming, fields: Mapping[str, FieldValue]) -> tuple[Entity, ...]:
        found = self._look(naming, fields)
        values = [fields.get(name) for name in naming.names]
        if None in values or sum(len(v) for v in values if isinstance(v, str)) > MAX_KEY_CHARACTERS:
            return found
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[naming.number, naming.values(fields)] = found
        return found

    def _look(self, naming: Naming, fields: Mapping[str, FieldValue]) -> tuple[Entity, ...]:
        entities: list[Entity] = []
        for name, read in zip(naming.names, naming.readers, strict=True):
            value = fields.get(name)
            if not isinstance(value, str) or not value:
                continue
            if read is None:
                entities.extend(self._digest_entities(self.digests(value)))
            elif len(value) <= MAX_ENTITY_LENGTH:
                found = read(value)
                if found is not None:
                    entities.append(found)
        return distinct(entities)

    def digests(self, value: FieldValue) -> Digests:
        """The digests in `MD5=…,SHA256=…` by the names of their fields; none in anything else."""
        if not isinstance(value, str):
            return ()
        found = self._digests.get(value)
        if found is None:
            found = self._split(value)
            if len(value) <= MAX_HASHES:
                if len(self._digests) >= MAX_HASHED:
                    self._digests.clear()
                self._digests[value] = found
        return found

    def _split(self, value: str) -> Digests:
        found: dict[str, str] = {}
        for part in value.split(",") if len(value) <= MAX_HASHES else ():
            algorithm, _, digest = part.partition("=")
            name = self._algorithms.get(algorithm.strip().lower(), "")
            if name and digest.strip():
                found.setdefault(name, digest.strip())
        return tuple(found.items())

    def _digest_entities(self, digests: Digests) -> list[Entity]:
        read = read_entity("hash", "")
        found = [read(digest) for name, digest in digests if name in self._hash_entities]
        return [item for item in found if item is not None]
