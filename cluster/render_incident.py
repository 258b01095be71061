"""One incident on a terminal: what it is about, then its timeline with the reason of every member."""

from __future__ import annotations

from itertools import groupby
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cluster.render import entities, plain_table, score, severity, state
from cluster.terminal_text import shortened, text, utc, visible

_PANEL_STYLES = {"critical": "red", "high": "red", "medium": "yellow", "low": "cyan"}
_SHOWN_RECORDS = 3
_MESSAGE_LENGTH = 160
_DATE_LENGTH = len("2026-03-01")


class TimelineEntry(NamedTuple):
    """Neighbouring members that say the same: shown once, with their number and span."""

    first_time: str
    last_time: str
    stage: str
    severity: str
    title: str
    reason: str
    message: str
    records: tuple[str, ...]
    repeats: int


def incident(value: dict[str, Any]) -> RenderableType:
    """Header panel and timeline of an incident as `GET /api/incidents/{id}` answers it."""
    style = _PANEL_STYLES.get(str(value.get("severity")), "blue")
    header = Panel(_facts(value), title=text(value.get("title"), "bold"), title_align="left", border_style=style)
    timeline = value.get("timeline") or []
    return Group(header, Text(), _timeline(timeline)) if timeline else header


def timeline_entries(timeline: list[dict[str, Any]]) -> list[TimelineEntry]:
    """The timeline with neighbours of the same stage, title and severity folded into one entry."""
    entries = []
    for (stage, title, level), members in groupby(timeline, key=_sameness):
        group = list(members)
        first, last = group[0], group[-1]
        records: dict[str, None] = {}
        for member in group:
            for item in (member.get("event") or {}).get("evidence") or []:
                records.setdefault(visible(item.get("record", "")))
        entries.append(
            TimelineEntry(
                first_time=utc(first.get("time")),
                last_time=utc(last.get("time")),
                stage=stage,
                severity=level,
                title=title,
                reason=visible(first.get("reason", "")),
                message=_first_message(first.get("event") or {}),
                records=tuple(records),
                repeats=len(group),
            )
        )
    return entries


def _sameness(member: dict[str, Any]) -> tuple[str, str, str]:
    event = member.get("event") or {}
    return visible(member.get("stage") or "-"), visible(event.get("title", "")), str(event.get("severity", ""))


def _first_message(event: dict[str, Any]) -> str:
    for item in event.get("evidence") or []:
        if message := item.get("message"):
            return shortened(message, _MESSAGE_LENGTH)
    return ""


def _facts(value: dict[str, Any]) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    level = severity(value.get("severity"))
    facts.add_row("severity", Text.assemble(level, f"  score {score(value.get('score'))}  ", state(value.get("state"))))
    facts.add_row("when", f"{utc(value.get('first_time'))} to {utc(value.get('last_time'))}")
    facts.add_row("about", entities(value.get("entities") or [], limit=12))
    if techniques := value.get("techniques"):
        facts.add_row("techniques", text(", ".join(map(str, techniques)), "magenta"))
    if tactics := value.get("tactics"):
        facts.add_row("tactics", text(" → ".join(map(str, tactics))))
    facts.add_row("events", text(value.get("event_count", "-")))
    if predecessor := value.get("predecessor"):
        facts.add_row("continues", text(predecessor))
    facts.add_row("incident", text(f"{value.get('incident_id')}, revision {value.get('revision')}", "dim"))
    return facts


def _timeline(timeline: list[dict[str, Any]]) -> Table:
    entries = timeline_entries(timeline)
    days = {moment[:_DATE_LENGTH] for entry in entries for moment in (entry.first_time, entry.last_time)}
    # What all entries share is said once, above the column.
    shared = f"{days.pop()} " if len(days) == 1 else ""
    header = f"{shared.strip()}\ntime (UTC)" if shared else "time (UTC)"
    table = plain_table(header, "stage", "what happened, and why it belongs here")
    table.columns[0].no_wrap = True
    for entry in entries:
        when = Text(entry.first_time.removeprefix(shared))
        if entry.last_time != entry.first_time:
            when.append(f"\n{entry.last_time.removeprefix(shared)}", style="dim")
        what = Text.assemble(severity(entry.severity), "  ", (entry.title, "bold"))
        if entry.repeats > 1:
            what.append(f"  ×{entry.repeats}", style="bold cyan")
        if entry.message:
            what.append(f"\n{entry.message}")
        what.append(f"\nwhy: {entry.reason}", style="italic")
        if entry.records:
            what.append(f"\nrecords {_records(entry.records)}", style="dim")
        table.add_row(when, Text(entry.stage, style="blue"), what)
    return table


def _records(records: tuple[str, ...]) -> str:
    shown = ", ".join(records[:_SHOWN_RECORDS])
    return f"{shown} and {len(records) - _SHOWN_RECORDS} more" if len(records) > _SHOWN_RECORDS else shown
