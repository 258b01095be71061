"""The documents of rule sources as they are written, with the lines of their keys: for tools that look at the text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from detect.sigma.identity import identity_of
from detect.sigma.yaml_text import BadYaml, BoundedLoader, yaml_documents


@dataclass(frozen=True, slots=True)
class RuleDocument:
    """One YAML map. `lines` has the line (from 1) of each key on the first two levels, as `key` and `key.inner`."""

    path: str
    position: int
    line: int
    content: dict[str, Any]
    lines: dict[str, int]

    @property
    def rule_id(self) -> str:
        """The id that rules are known by: the stated one, the name, or the place of the document."""
        return identity_of(self.content, self.path, self.position)

    def line_of(self, *keys: str) -> int:
        """The line of the first of these keys that is there; the document's own otherwise."""
        return next((self.lines[key] for key in keys if key in self.lines), self.line)


class _PlainLoader(BoundedLoader):
    """Times stay the text that they are: an event in a test holds what a log would hold."""


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def documents_of(path: str, text: str) -> Iterator[RuleDocument]:
    """The maps of a source, in order, up to the first fault: what is wrong with it, load_rule_set says."""
    try:
        for document in yaml_documents(text, _PlainLoader):
            if isinstance(document.content, dict):
                yield RuleDocument(path, document.position, document.line, document.content, document.lines)
    except BadYaml:
        return
