"""All SQL is in the registry, and all of the registry is used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from store.migrate import migrations
from store.queries import QueryError, parse_queries, queries, sql

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("actors", "cluster", "serve", "store")


def used_names() -> set[str]:
    sources = [path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    names = {name for source in sources for name in re.findall(r'sql\(\s*f?"([^"]+)"', source)}
    names |= {name for source in sources for name in re.findall(r'sql\([^()]*else "(\w+)"\)', source)}
    return {
        whole
        for name in names
        for whole in ([name.replace("{span}", span) for span in ("1m", "5m", "1h")] if "{span}" in name else [name])
    }


def test_every_statement_that_is_asked_for_exists_and_every_one_that_exists_is_asked_for() -> None:
    assert used_names() - {"NAME"} == set(queries())


def test_statements_carry_their_comment_and_their_place() -> None:
    found = queries()["advisory_lease"]
    assert found.comment.startswith("Due work of all tenants")
    assert re.fullmatch(r"store/sql/advisories\.sql:\d+", found.source)
    assert not found.text.startswith("--")


def test_no_sql_is_built_by_python() -> None:
    words = re.compile(r"\b(SELECT .* FROM|INSERT INTO|UPDATE .* SET|DELETE FROM|CREATE TABLE|ALTER ROLE)\b")
    for path in (ROOT / "store").glob("*.py"):
        assert not words.search(path.read_text()), f"{path.name} holds SQL: it belongs into store/sql"


def test_a_malformed_file_is_named() -> None:
    with pytest.raises(QueryError, match=r"x\.sql:1"):
        parse_queries("SELECT 1;", "x.sql")
    with pytest.raises(QueryError, match=r"x\.sql:1.*empty"):
        parse_queries("-- name: empty\n-- only a comment\n", "x.sql")
    with pytest.raises(QueryError, match="no_such_statement"):
        sql("no_such_statement")


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [migration.number for migration in migrations()] == list(range(1, len(migrations()) + 1))
    assert migrations()[0].name == "initial"
