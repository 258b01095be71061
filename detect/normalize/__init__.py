"""Records of any source under one set of names: fields for rules, entities, what happened and whether it succeeded.

Parsers are data (`parsers/*.yml`), each with the lines that prove it. `timestamps` reads the time a line states.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

from detect.normalize.definition import Definition, ParserError, load_parsers
from detect.normalize.normalizer import Normalizer


@cache
def default_definitions() -> tuple[Definition, ...]:
    """The packaged parsers, read once."""
    folder = resources.files(__package__) / "parsers"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yml")), key=lambda file: file.name)
    return load_parsers({file.name: file.read_text(encoding="utf-8") for file in files})


@cache
def default_normalizer() -> Normalizer:
    """The normalizer with the packaged parsers: one for all tenants, as it keeps nothing but how forms are read."""
    return Normalizer(default_definitions())


__all__ = [
    "Definition",
    "Normalizer",
    "ParserError",
    "default_definitions",
    "default_normalizer",
    "load_parsers",
]
