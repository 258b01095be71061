"""YAML as strangers write it: every document of a text with its lines, within bounds that no text can make explode.

The parser below PyYAML calls itself for every level of nesting, without end, and aliases and merge keys multiply what
a short text says. Both are bounded before anything is built. Keys that are said twice are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from sigma.exceptions import SigmaError
from sigma.rule.base import check_alias_expansion

MAX_SOURCE_CHARACTERS = 1 << 20
MAX_NESTING = 40
MAX_MERGED_KEYS = 1000
MAX_MERGES = 100
MAX_INTEGER_BITS = 8192
_MERGE = "tag:yaml.org,2002:merge"
# A level of block nesting needs a column of its own before the text of some line, one of flow nesting a bracket.
_LINE_START = re.compile(r"^[ \t?:-]+", re.MULTILINE)


class BadYaml(ValueError):
    """A text that is no YAML, or more than the bounds allow. `line` counts from 1; None where no line is to blame."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """One document that is not empty. `position` counts from 0, `line` from 1. Of a map, `lines` has the line of every
    key on the first two levels, as `key` and `key.inner`."""

    position: int
    line: int
    content: Any
    lines: dict[str, int]


class BoundedLoader(yaml.CSafeLoader):
    """Plain data only; refuses a key that is said twice, merge keys without measure, and numbers that nobody writes."""

    _merges = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merges what `<<` asks for, up to a bound."""
        for key, value in node.value:
            if key.tag == _MERGE:
                self._merges += len(value.value) if isinstance(value, yaml.SequenceNode) else 1
                if self._merges > MAX_MERGES:
                    raise _at(key, f"more than {MAX_MERGES} merges")
        super().flatten_mapping(node)
        if len(node.value) > MAX_MERGED_KEYS and self._merges:
            raise _at(node, f"merges make a map of more than {MAX_MERGED_KEYS} keys")

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A map; a key that is said twice is an error, where YAML would forget the first."""
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in seen:
                raise _at(key, f"Duplicate key {key.value!r}")
            if name is not None and key.tag != _MERGE:
                seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A whole number that Python can write out in decimal: in another base a text says far longer ones."""
        number: int = super().construct_yaml_int(node)
        if number.bit_length() > MAX_INTEGER_BITS:
            raise _at(node, f"a whole number of more than {MAX_INTEGER_BITS} bits")
        return number


BoundedLoader.add_constructor("tag:yaml.org,2002:int", BoundedLoader.construct_yaml_int)


def _at(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def yaml_documents(text: str, loader_class: type[BoundedLoader] = BoundedLoader) -> Iterator[YamlDocument]:
    """The documents of a text, in order. Raises BadYaml at the first fault, after the documents before it."""
    if len(text) > MAX_SOURCE_CHARACTERS:
        raise BadYaml(f"longer than {MAX_SOURCE_CHARACTERS} characters")
    try:
        refuse_depth(text)
        loader = loader_class(text)
        try:
            position = 0
            while loader.check_node():
                node = loader.get_node()
                content = None if node is None else loader.construct_document(node)
                if node is not None and content is not None:
                    check_alias_expansion(content)
                    yield YamlDocument(position, node.start_mark.line + 1, content, _key_lines(node))
                position += 1
        finally:
            loader.dispose()
    except (yaml.YAMLError, SigmaError, RecursionError, ValueError, TypeError, OverflowError) as error:
        if isinstance(error, BadYaml):
            raise
        raise BadYaml(f"not valid YAML: {_reason(error)}", _line(error)) from error


def _key_lines(node: yaml.Node) -> dict[str, int]:
    lines: dict[str, int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        lines[str(key.value)] = key.start_mark.line + 1
        for inner, _ in value.value if isinstance(value, yaml.MappingNode) else ():
            lines[f"{key.value}.{inner.value}"] = inner.start_mark.line + 1
    return lines


def refuse_depth(text: str) -> None:
    """Raises BadYaml for nesting beyond the bound. Looks closer only where the text could be that deep."""
    longest = max(map(len, _LINE_START.findall(text)), default=0)
    if longest <= MAX_NESTING and text.count("[") + text.count("{") <= MAX_NESTING:
        return
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_NESTING:
                line = None if event.start_mark is None else event.start_mark.line + 1
                raise BadYaml(f"nested more than {MAX_NESTING} deep", line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _line(error: Exception) -> int | None:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return None if mark is None else int(mark.line) + 1


def _reason(error: Exception) -> str:
    text = str(getattr(error, "problem", None) or error) or type(error).__name__
    return " ".join(text.split())[:300]
