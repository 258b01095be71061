"""One stored log record, whole."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.render import record_id
from cluster.terminal_text import text, utc, visible


def record(value: dict[str, Any]) -> RenderableType:
    """What `GET /api/logs/{record}` answers: the facts, the line a person would read, then the record as stored."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("record", text(record_id(value), "bold"))
    mark = f"  ({visible(value['time_mark'])})" if value.get("time_mark") else ""
    facts.add_row("time", utc(value.get("time"), fraction=True) + mark)
    facts.add_row("received", utc(value.get("received"), fraction=True))
    facts.add_row("source", text(value.get("logsource") or "-"))
    facts.add_row("about", text(", ".join(str(entity) for entity in value.get("entities") or []) or "-"))
    facts.add_row("message", text(value.get("message", ""), "bold"))
    if digest := value.get("digest"):
        facts.add_row("sha-256", text(digest))
    stored = json.dumps(value.get("record"), indent=2, ensure_ascii=True)
    return Group(facts, Text(), Text(stored, "dim"))
