"""An advisory on a terminal (advise/advisory.schema.json): what it says, every sentence with its evidence ids.

Long lists and texts are cut with a note of how much is left; `--json` has everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cluster.render import plain_table, severity
from cluster.terminal_text import shortened, text, utc, visible

_SHOWN_TECHNIQUES = 8
_SHOWN_ACTIONS = 12
_SHOWN_CHECKS = 6
_SHOWN_EVIDENCE = 20
_TEXT_LENGTH = 420
_MESSAGE_LENGTH = 180


def advisory(value: dict[str, Any]) -> RenderableType:
    """What `GET /api/incidents/{id}/advisory` answers: {version, revision, generator, fallback_reason, body, ...}."""
    body: dict[str, Any] = value.get("body") or {}
    parts: list[RenderableType] = [_header(value, body)]
    sections = (
        ("Summary", _statements(body.get("summary") or [])),
        ("Timeline", _timeline(body.get("timeline") or [])),
        ("ATT&CK techniques", _techniques(body.get("techniques") or [])),
        ("What to do (nothing is carried out by itself)", _actions(body.get("actions") or [])),
        ("Where to look next", _checks(body.get("next_checks") or [])),
        ("What this advisory does not know", _notes(body)),
        ("Evidence", _evidence(body.get("evidence") or [])),
    )
    for title, section in sections:
        if section is not None:
            parts += [Text(), Text(title, "bold underline"), Padding(section, (0, 0, 0, 2))]
    notice = (body.get("corpus") or {}).get("notice")
    if notice:
        parts += [Text(), *(text(line, "dim italic") for line in str(notice).splitlines())]
    return Group(*parts)


def _header(value: dict[str, Any], body: dict[str, Any]) -> Panel:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    level = severity(body.get("severity", "-"))
    facts.add_row("severity", Text.assemble(level, ("  confidence ", "dim"), _percent(body.get("confidence"))))
    if body.get("first_time"):
        facts.add_row("when", f"{utc(body['first_time'])} to {utc(body.get('last_time'))}")
    if body.get("hil_required"):
        reasons = "; ".join(visible(reason) for reason in body.get("hil_reasons") or [])
        facts.add_row("decision", Text.assemble(("a person must decide", "bold"), f": {reasons}" if reasons else ""))
    facts.add_row("written by", text(value.get("generator", "-")))
    if reason := value.get("fallback_reason"):
        facts.add_row("because", text(reason, "yellow"))
    version = f"version {value.get('version')} for revision {value.get('revision')}, {utc(value.get('created_at'))}"
    facts.add_row("advisory", text(version, "dim"))
    return Panel(facts, title=text(body.get("title") or "Advisory", "bold"), title_align="left", border_style="blue")


def _statements(items: Sequence[Any]) -> RenderableType | None:
    if not items:
        return None
    return Group(*(_cited(item.get("text"), item) for item in items))


def _timeline(items: Sequence[Any]) -> RenderableType | None:
    if not items:
        return None
    table = plain_table("time (UTC)", "stage", "what was seen")
    table.columns[0].no_wrap = True
    for item in items:
        what = _cited(item.get("text"), item)
        if (count := item.get("count", 1)) > 1:
            what.append(f"  ×{count}", style="bold cyan")
        table.add_row(utc(item.get("time")), text(item.get("stage") or "-", "blue"), what)
    return table


def _techniques(items: Sequence[Any]) -> RenderableType | None:
    if not items:
        return None
    table = plain_table("technique", "name, and why", "confidence", "evidence")
    table.columns[0].no_wrap = True
    table.columns[3].max_width = 24
    for item in items[:_SHOWN_TECHNIQUES]:
        name = text(item.get("name", ""), "bold")
        if tactics := item.get("tactics"):
            name.append("  " + ", ".join(visible(tactic) for tactic in tactics), style="not bold dim")
        name = Text.assemble(name, f"\n{shortened(item.get('why', ''), _TEXT_LENGTH)}")
        if item.get("model_verdict") not in (None, "not_asked"):
            name.append(f" (model: {visible(item['model_verdict']).replace('_', ' ')})", style="dim")
        identifier = text(item.get("id", "-"), "magenta")
        table.add_row(identifier, name, _percent(item.get("confidence")), _citation(item))
    return _with_rest(table, len(items) - _SHOWN_TECHNIQUES, "techniques")


def _actions(items: Sequence[Any]) -> RenderableType | None:
    """Numbered through, under the playbook or mitigation that each comes from."""
    if not items:
        return None
    parts: list[RenderableType] = []
    number = 0
    for source, members in groupby(items[:_SHOWN_ACTIONS], key=lambda item: item.get("source") or ""):
        parts.append(text(source, "bold"))
        table = _bullets()
        for item in members:
            number += 1
            line = _cited(shortened(item.get("text", ""), _TEXT_LENGTH), item)
            if item.get("disruptive"):
                line = Text.assemble(("disruptive ", "bold yellow"), line)
            if phase := item.get("phase"):
                line = Text.assemble((f"{visible(phase)}: ", "blue"), line)
            if item.get("suggested_by_model"):
                line.append(" (the model picked this one)", style="dim")
            table.add_row(f"{number}.", line)
        parts.append(table)
    return _with_rest(Group(*parts), len(items) - _SHOWN_ACTIONS, "actions")


def _checks(items: Sequence[Any]) -> RenderableType | None:
    if not items:
        return None
    table = _bullets()
    for item in items[:_SHOWN_CHECKS]:
        line = Text.assemble((visible(item.get("technique", "")), "magenta"), " ")
        line.append_text(_cited(shortened(item.get("text", ""), _TEXT_LENGTH), item))
        unnamed = [source for source in item.get("log_sources") or [] if source not in str(item.get("text"))]
        if unnamed:
            line.append("\nlogs: " + ", ".join(visible(source) for source in unnamed), style="dim")
        table.add_row("•", line)
    return _with_rest(table, len(items) - _SHOWN_CHECKS, "checks")


def _notes(body: dict[str, Any]) -> RenderableType | None:
    notes = [text(note) for note in body.get("notes") or []]
    omitted = body.get("omitted") or {}
    if records := omitted.get("records"):
        by_rule = ", ".join(f"{visible(title)} ×{count}" for title, count in (omitted.get("by_rule") or {}).items())
        notes.append(text(f"{records} records are not quoted" + (f": {by_rule}" if by_rule else "")))
    if not notes:
        return None
    table = _bullets()
    for note in notes:
        table.add_row("•", note)
    return table


def _evidence(items: Sequence[Any]) -> RenderableType | None:
    if not items:
        return None
    # Evidence out of the journal goes by the record's own id; a caller's own records have ids beside it.
    named = any(item.get("id") != item.get("record") for item in items)
    table = plain_table(*(["id"] if named else []), "record", "time (UTC)", "what the record says")
    for column in table.columns[:-1]:
        column.no_wrap = True
    for item in items[:_SHOWN_EVIDENCE]:
        if item.get("tainted"):
            message = Text("withheld: it reads like an instruction (`trustsoc logs show` has it)", "yellow")
        else:
            message = text(shortened(item.get("message", ""), _MESSAGE_LENGTH))
        if redacted := item.get("redacted"):
            message.append(f" (removed: {', '.join(visible(kind) for kind in redacted)})", style="dim")
        identifier = [text(item.get("id", "-"), "cyan")] if named else []
        record = text(item.get("record", ""), "" if named else "cyan")
        table.add_row(*identifier, record, utc(item.get("time")), message)
    return _with_rest(table, len(items) - _SHOWN_EVIDENCE, "records")


def _with_rest(shown: RenderableType, rest: int, what: str) -> RenderableType:
    return Group(shown, Text(f"and {rest} more {what}: see --json", "dim")) if rest > 0 else shown


def _bullets() -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _cited(sentence: object, item: dict[str, Any]) -> Text:
    """The sentence, then the evidence it rests on; a sentence that a model wrote says so."""
    line = text(sentence or "")
    origin = item.get("origin")
    if origin not in (None, "template"):
        line.append(f" (by {visible(origin)})", style="dim")
    citation = _citation(item)
    return Text.assemble(line, " ", citation) if citation else line


def _citation(item: dict[str, Any]) -> Text:
    cited = [visible(identifier) for identifier in item.get("evidence") or []]
    return Text(f"[{', '.join(cited)}]", "cyan") if cited else Text()


def _percent(value: Any) -> Text:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Text("-")
    return Text(f"{value:.0%}")
