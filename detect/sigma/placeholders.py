"""Lists of values for `expand` placeholders: `%name%` in a rule stands for any value of the list of that name.

A list is given by a document `placeholders: {name: [values]}` among the sources of a rule set, so the digest of the
rule set names the values too, and each tenant has its own. Lists of the same name shipped with the program hold where
the sources give none. A rule that asks for a list nobody gives is inert, and named so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from itertools import product
from typing import Any

from detect.sigma.yaml_text import yaml_documents

Lists = Mapping[str, tuple[str, ...]]

MAX_EXPANSIONS = 10_000
_PLACEHOLDER = re.compile(r"%([^%\\]+)%")


class BadPlaceholders(ValueError):
    """A document of lists that is none, or values that multiply beyond the bound."""


class MissingList(ValueError):
    """A placeholder without a list; `names` are all that lack one."""

    def __init__(self, names: list[str]) -> None:
        super().__init__("inert: no values are given for " + ", ".join(f"%{name}%" for name in names))
        self.names = names


def shipped_lists() -> dict[str, tuple[str, ...]]:
    """The lists that ship with the program (detect/sigma/placeholders.yml)."""
    text = files("detect.sigma").joinpath("placeholders.yml").read_text(encoding="utf-8")
    (document,) = yaml_documents(text)
    return lists_of(document.content)


def lists_of(content: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The lists of a `placeholders` document. Raises BadPlaceholders."""
    stated = content.get("placeholders")
    if not isinstance(stated, dict):
        raise BadPlaceholders("`placeholders` must be a map from names to lists of values")
    if strange := sorted(map(str, content.keys() - {"placeholders", "title", "description", "id"})):
        raise BadPlaceholders(f"a document of placeholders cannot have `{strange[0]}`")
    return {_name(name): _values(name, values) for name, values in stated.items()}


def _name(name: object) -> str:
    if not isinstance(name, str) or not _PLACEHOLDER.fullmatch(f"%{name}%"):
        raise BadPlaceholders(f"{name!r} cannot be the name of a placeholder")
    return name


def _values(name: object, values: object) -> tuple[str, ...]:
    items = values if isinstance(values, list) else [values]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, str | int | float):
            raise BadPlaceholders(f"the values of %{name}% must be texts or numbers, not {item!r}")
    return tuple(map(str, items))


def expanded(text: str, lists: Lists, *, literally: bool) -> list[str]:
    """The texts that a value with placeholders stands for: none when a list is empty, itself without placeholders.

    With `literally` the values are put into a regular expression as the text that they are. Raises MissingList and
    BadPlaceholders.
    """
    names = _PLACEHOLDER.findall(text)
    if missing := sorted({name for name in names if name not in lists}):
        raise MissingList(missing)
    choices = [lists[name] for name in names]
    total = 1
    for choice in choices:
        total *= len(choice)
    if total > MAX_EXPANSIONS:
        raise BadPlaceholders(f"the placeholders of {text[:100]!r} expand to more than {MAX_EXPANSIONS} values")
    pieces = _PLACEHOLDER.split(text)[::2]
    return [_joined(pieces, combination, literally) for combination in product(*choices)]


def _joined(pieces: list[str], values: tuple[str, ...], literally: bool) -> str:
    filled = [re.escape(value) if literally else value for value in values]
    return "".join(part for pair in zip(pieces, [*filled, ""], strict=True) for part in pair)
