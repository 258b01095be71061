"""A file over 400 lines or a function over 60 asks the design for something."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
FILES = sorted(path for package in (*PACKAGES, "tests") for path in (ROOT / package).rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions below a node, at any depth. There are none in expressions, which are most of a tree."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        if not isinstance(child, ast.expr):
            yield from functions(child)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_and_its_functions_keep_their_size(path: Path) -> None:
    lines = path.read_bytes().count(b"\n")
    assert lines <= MAX_FILE_LINES, f"{path} has more than {MAX_FILE_LINES} lines: split it by subject"
    long = [
        f"{node.name} ({node.end_lineno - node.lineno + 1} lines)"
        for node in (functions(parsed(path)) if lines > MAX_FUNCTION_LINES else ())
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long, f"{path}: functions over {MAX_FUNCTION_LINES} lines: {', '.join(long)}"


def test_every_public_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in FILES
        if path.parts[len(ROOT.parts)] != "tests" and not ast.get_docstring(parsed(path))
    ]
    assert not silent
