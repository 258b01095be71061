"""What the API answers, as tables a person can read at 100 columns. Everything shown passes through terminal_text."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.terminal_text import shortened, text, utc, visible

_PLAIN_WIDTH = 100
_SHOWN_ENTITIES = 4

_SEVERITY_STYLES = {
    "critical": "bold white on red",
    "high": "bold red",
    "medium": "yellow",
    "low": "cyan",
    "informational": "dim",
}
_STATE_STYLES = {
    "open": "bold",
    "closed": "dim",
    "ready": "green",
    "ok": "green",
    "running": "green",
    "starting": "yellow",
    "waiting": "yellow",
    "degraded": "yellow",
    "off": "dim",
    "down": "bold red",
    "failed": "bold red",
}


def terminal(stream: TextIO | None = None) -> Console:
    """A console on the stream (standard output by default), 100 columns wide where there is no terminal."""
    file = stream or sys.stdout
    width = None if file.isatty() or os.environ.get("COLUMNS") else _PLAIN_WIDTH
    return Console(file=file, width=width, highlight=False, emoji=False, markup=False)


def print_json(value: Any, stream: TextIO | None = None) -> None:
    """The value for programs. Non-ASCII is escaped, so that no log line can drive the terminal it is printed on."""
    file = stream or sys.stdout
    file.write(json.dumps(value, indent=2, ensure_ascii=True) + "\n")
    file.flush()


def show(answer: Any, view: Callable[[Any], RenderableType], as_json: bool) -> None:
    """The answer as it is for programs, or what `view` makes of it for people."""
    if as_json:
        print_json(answer)
    else:
        terminal().print(view(answer))


def show_items(answer: dict[str, Any], view: Callable[[Sequence[Any]], RenderableType], as_json: bool) -> None:
    """A list, whole or a page of it; after a page, how to go on."""
    show(answer, lambda answer: view(answer["items"]), as_json)
    if as_json:
        return
    if (reached := answer.get("searched_to")) is not None:
        terminal().print(text(f"Searched back to {utc(reached)}; there may be more before that.", "dim"))
    if (hint := more_hint(answer.get("next_cursor"))) is not None:
        terminal().print(hint)


def severity(value: object) -> Text:
    return text(value, _SEVERITY_STYLES.get(str(value), ""))


def state(value: object) -> Text:
    return text(value, _STATE_STYLES.get(str(value).lower(), ""))


def score(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, int | float) else "-"


def entities(items: Iterable[Any], limit: int = _SHOWN_ENTITIES) -> Text:
    """`kind value` pairs, the first few; each value once."""
    pairs: dict[tuple[str, str], None] = {}
    for item in items:
        if isinstance(item, dict):
            pairs.setdefault((visible(item.get("kind", "")), shortened(item.get("value", ""), 48)))
    line = Text()
    for index, (kind, value) in enumerate(pairs):
        if index == limit:
            line.append(f", +{len(pairs) - limit}", style="dim")
            break
        line.append(", " if index else "")
        line.append(f"{kind} ", style="dim")
        line.append(value)
    return line


def plain_table(*headers: str) -> Table:
    """The one look of all lists: a rule under the header, no frame."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def events(items: Sequence[Any]) -> RenderableType:
    if not items:
        return nothing("No detection events.", "Send some logs first: trustsoc send /var/log/auth.log")
    table = plain_table("time (UTC)", "severity", "what", "about", "record")
    _unbroken(table, 0, 1, 4)
    for item in items:
        what = text(item.get("title"), "bold")
        if techniques := item.get("techniques"):
            what.append("\n" + " ".join(visible(technique) for technique in techniques), style="not bold magenta")
        if repeats := item.get("repeats"):
            what.append(f"\nand {repeats:,} more like it until {utc(item.get('last_repeat'))}", style="not bold")
        table.add_row(
            utc(item.get("time")),
            severity(item.get("severity")),
            what,
            entities(item.get("entities") or []),
            text(item.get("record", "")),
        )
    return table


def incidents(items: Sequence[Any]) -> RenderableType:
    if not items:
        return nothing("No incidents.", "Detection events that belong together become one: see trustsoc events")
    table = plain_table("last seen (UTC)", "severity", "score", "state", "incident", "events")
    _unbroken(table, 0, 1, 2, 3, 5)
    for item in items:
        what = text(item.get("title"), "bold")
        what.append(f"\n{visible(item.get('incident_id', ''))}", style="dim")
        table.add_row(
            utc(item.get("last_time")),
            severity(item.get("severity")),
            score(item.get("score")),
            state(item.get("state")),
            what,
            text(item.get("event_count", "-")),
        )
    return table


def logs(items: Sequence[Any]) -> RenderableType:
    if not items:
        return nothing("No log records match.", "Without --from only the last 24 hours are searched: try --from 30d.")
    table = plain_table("time (UTC)", "record", "source", "message")
    _unbroken(table, 0, 1)
    for item in items:
        table.add_row(
            utc(item.get("time")),
            text(record_id(item)),
            text(_logsource(item), "dim"),
            text(item.get("message", "")),
        )
    return table


def tenants(items: Sequence[Any]) -> RenderableType:
    if not items:
        return nothing("No tenants.", "Make one: trustsoc tenant create NAME")
    table = plain_table("tenant", "made at (UTC)", "id")
    for item in items:
        identifier = item.get("tenant_id", item.get("id", ""))
        table.add_row(text(item.get("name"), "bold"), utc(item.get("created_at")), text(identifier, "dim"))
    return table


def keys(items: Sequence[Any]) -> RenderableType:
    if not items:
        return nothing("No keys.", "Make one: trustsoc key create LABEL")
    table = plain_table("key id", "label", "scopes", "made at (UTC)", "state")
    for item in items:
        revoked = item.get("revoked_at")
        table.add_row(
            text(item.get("key_id")),
            text(item.get("label"), "bold"),
            text(", ".join(str(scope) for scope in item.get("scopes") or [])),
            utc(item.get("created_at")),
            text(f"revoked {utc(revoked)}", "dim") if revoked else text("active", "green"),
        )
    return table


def nothing(what: str, next_step: str) -> Text:
    """An empty list never leaves a person alone with an empty screen."""
    return Text.assemble(what, " ", (next_step, "dim"))


def more_hint(cursor: object) -> Text | None:
    """How to get the next page, when there is one."""
    if not cursor:
        return None
    return Text.assemble(("There is more: raise --limit, or add ", "dim"), f"--cursor {visible(cursor)}")


def record_id(item: dict[str, Any]) -> str:
    """A record's `seq-position` under whichever of its names the answer has."""
    for name in ("id", "ref", "record_id", "record"):
        if isinstance(value := item.get(name), str):
            return value
    return f"{item['seq']}-{item['position']}" if "seq" in item and "position" in item else ""


def _logsource(item: dict[str, Any]) -> str:
    source = item.get("logsource", "")
    if isinstance(source, dict):
        return "/".join(str(part) for part in source.values() if part)
    return "/".join(part for part in str(source).split("/") if part)


def _unbroken(table: Table, *columns: int) -> None:
    for column in columns:
        table.columns[column].no_wrap = True
