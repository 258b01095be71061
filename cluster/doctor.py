"""`trustsoc doctor`: what is missing on this machine, and the command that mends it.

Every check looks at the real thing (a port is bound, a binary is run) and says what it found, so that a report pasted
by somebody else can be understood.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from cluster.doctor_check import Check, CheckState, Place
from cluster.doctor_database import database_disk_check
from cluster.doctor_machine import (
    data_directory_check,
    disk_check,
    memory_check,
    port_check,
    python_check,
    shared_memory_check,
    system_check,
    user_check,
)
from cluster.doctor_software import (
    collector_check,
    language_model_check,
    packages_check,
    postgres_check,
    proxy_check,
)
from cluster.render import plain_table
from cluster.terminal_text import text, visible

_STATE_MARKS: dict[CheckState, tuple[str, str]] = {
    "ok": ("✓ ok", "green"),
    "warning": ("! warning", "yellow"),
    "missing": ("✗ missing", "bold red"),
}


def examine(place: Place) -> list[Check]:
    """All checks, in the order in which a person would mend them."""
    return [
        python_check(),
        system_check(),
        memory_check(),
        disk_check(place.directory),
        shared_memory_check(),
        data_directory_check(place.directory),
        *([] if place.postgres_dsn else [database_disk_check(place.directory)]),
        user_check(),
        port_check(place),
        packages_check(),
        postgres_check(place.postgres_dsn),
        proxy_check(),
        collector_check(),
        language_model_check(),
    ]


def usable(checks: list[Check]) -> bool:
    """Whether nothing that is needed is missing."""
    return not any(check.state == "missing" for check in checks)


def report(checks: list[Check]) -> RenderableType:
    """The findings as a table, each with what mends it, and a verdict."""
    table = plain_table("check", "state", "found")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for check in checks:
        line = text(check.found)
        if check.mend and check.state != "ok":
            line.append(f"\n→ {visible(check.mend)}", style="bold")
        table.add_row(text(check.name), Text(*_STATE_MARKS[check.state]), line)
    if usable(checks):
        verdict = Text("Everything that is needed is here: `trustsoc up` starts it.", "green")
    else:
        verdict = Text("Something that is needed is missing: mend it, then run `trustsoc doctor` again.", "bold red")
    return Group(table, Text(), verdict)


def as_json(checks: list[Check]) -> dict[str, Any]:
    """The shape that `trustsoc doctor --json` prints."""
    return {"usable": usable(checks), "checks": [asdict(check) for check in checks]}
