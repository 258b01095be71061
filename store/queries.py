"""The registry of SQL: every statement lives in store/sql/*.sql under a name, `-- name: journal_append`."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib import resources

_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)$")


class QueryError(Exception):
    """A file of named SQL is malformed, or a name is not in the registry."""


@dataclass(frozen=True, slots=True)
class Query:
    """One named statement: `text` as the server gets it, `comment` says why it is so, `source` is FILE:LINE."""

    name: str
    text: str
    comment: str
    source: str


def parse_queries(text: str, file: str) -> list[Query]:
    """The named statements of one file, in order. Raises QueryError for SQL before the first name or a name alone."""
    starts: list[tuple[str, int]] = []
    lines = text.splitlines()
    for index, line in enumerate(lines):
        if match := _NAME.match(line.strip()):
            starts.append((match.group(1), index))
        elif line.strip() and not starts:
            raise QueryError(f"{file}:{index + 1}: every statement needs a line `-- name: NAME` before it")
    ends = [start for _, start in starts[1:]] + [len(lines)]
    return [
        _query(name, lines[start + 1 : end], f"{file}:{start + 1}")
        for (name, start), end in zip(starts, ends, strict=True)
    ]


def _query(name: str, lines: list[str], source: str) -> Query:
    body = 0
    while body < len(lines) and (not lines[body].strip() or lines[body].lstrip().startswith("--")):
        body += 1
    statement = "\n".join(lines[body:]).strip()
    if not statement:
        raise QueryError(f"{source}: the name {name} has no statement")
    comment = " ".join(line.strip().removeprefix("--").strip() for line in lines[:body] if line.strip())
    return Query(name, statement, comment, source)


@functools.cache
def queries() -> dict[str, Query]:
    """All named statements by name. Raises QueryError when a name is given twice."""
    found: dict[str, Query] = {}
    folder = resources.files("store") / "sql"
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        if not entry.name.endswith(".sql"):
            continue
        for query in parse_queries(entry.read_text(encoding="utf-8"), f"store/sql/{entry.name}"):
            if query.name in found:
                raise QueryError(f"{query.source}: {query.name} is already the name of {found[query.name].source}")
            found[query.name] = query
    return found


def sql(name: str) -> str:
    """The text of a named statement."""
    try:
        return queries()[name].text
    except KeyError:
        raise QueryError(f"there is no statement named {name!r} in store/sql") from None
