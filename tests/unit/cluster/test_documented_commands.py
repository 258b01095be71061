"""Every command and option that the documents name is there: people copy them at night."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cluster.cli import app

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# A command ends with its code span, its line of a block, a comment, or where the shell would begin another.
_SPAN = re.compile(r"```.*?```|`[^`]+`", re.DOTALL)
_CALL = re.compile(r"\btrustsoc ([a-z][^`;&#|\n]*)")
_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z0-9-]*")


def calls(text: str) -> Iterator[str]:
    """What follows `trustsoc` in code; a span may be broken over two lines, a block may not."""
    for span in _SPAN.findall(text):
        code = span if span.startswith("```") else " ".join(span.split())
        yield from (match[1].strip() for match in _CALL.finditer(code))


def unknown(call: str) -> str | None:
    """What of a call is neither a command nor an option of it."""
    command: Any = typer.main.get_command(app)
    words = call.split()
    while hasattr(command, "get_command") and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
        found = command.get_command(None, words[0])
        if found is None:
            return f"{words[0]} is no command of {command.name}"
        command = found
        words = words[1:]
    options = {option for param in command.params for option in (*param.opts, *param.secondary_opts)} | {"--help"}
    missing = [option for option in _OPTION.findall(" ".join(words)) if option not in options]
    return f"{command.name} has no {', '.join(missing)}" if missing else None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_the_documents_is_there(document: Path) -> None:
    wrong = [f"trustsoc {call}: {reason}" for call in calls(document.read_text()) if (reason := unknown(call))]
    assert wrong == []


def test_commands_and_options_that_are_not_there_are_seen() -> None:
    text = (
        "`trustsoc rules lint --strikt X`, `trustsoc rules\nlent X`\n```sh\ntrustsoc huntt; trustsoc down  # --x\n```"
    )
    assert [unknown(call) for call in calls(text)] == [
        "lint has no --strikt",
        "lent is no command of rules",
        "huntt is no command of trustsoc",
        None,
    ]
