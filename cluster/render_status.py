"""The state of a cluster as one table: every component with its state and its own figures, then the tenant's counts."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from cluster.render import plain_table, state
from cluster.terminal_text import text, visible

_STATE_NAMES = ("state", "status")


def status(value: dict[str, Any], base_url: str, tenant: str) -> RenderableType:
    """What `GET /api/status` answers: {version, ready, components: {name: {...}}, counts}."""
    ready = value.get("ready")
    mark = Text("● ready", "bold green") if ready else Text("● not ready", "bold yellow")
    headline = Text.assemble(mark, f"  {base_url}  ", (f"version {visible(value.get('version', '?'))}", "dim"))
    table = plain_table("component", "state", "details")
    table.columns[0].no_wrap = True
    for name, component in (value.get("components") or {}).items():
        facts = component if isinstance(component, dict) else {"state": component}
        parts_of = {key: _parts(key, fact) for key, fact in facts.items()}
        own = {key: fact for key, fact in facts.items() if not parts_of[key]}
        table.add_row(text(name, "bold"), state(_state_of(facts)), _details(own))
        for label, part in (labelled for key in parts_of for labelled in parts_of[key]):
            table.add_row(text(f"  {label}"), state(_state_of(part)), _details(part))
    parts: list[RenderableType] = [headline, Text(), table]
    counts = value.get("counts")
    if isinstance(counts, dict) and counts:
        parts += [Text(), Text.assemble((f"tenant {visible(tenant)}: ", "dim"), _counts(counts))]
    return Group(*parts)


def _parts(name: str, fact: Any) -> list[tuple[str, dict[str, Any]]]:
    """What a component reports of its parts, by name: the detector on every actor, the language model."""
    if isinstance(fact, dict) and any(key in fact for key in _STATE_NAMES):
        return [(visible(name), fact)]
    if isinstance(fact, list) and all(isinstance(part, dict) for part in fact):
        return [_labelled(part) for part in fact]
    return []


def _labelled(part: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    for name in ("name", "actor"):
        if isinstance(part.get(name), str):
            return visible(part[name]), {key: fact for key, fact in part.items() if key != name}
    return "", part


def _state_of(facts: dict[str, Any]) -> str:
    for name in _STATE_NAMES:
        if name in facts:
            return str(facts[name])
    for name in ("ready", "ok", "healthy"):
        if isinstance(facts.get(name), bool):
            return "ok" if facts[name] else "down"
    return "-"


def _details(facts: dict[str, Any]) -> Text:
    hidden = (*_STATE_NAMES, "ready")
    shown = {name: value for name, value in facts.items() if name not in hidden and value not in (None, "", [], {})}
    line = Text()
    for index, (name, value) in enumerate(shown.items()):
        line.append(", " if index else "")
        if name != "detail":
            line.append(f"{visible(name).replace('_', ' ')} ", style="dim")
        line.append(_figure(value))
    return line


def _figure(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, list):
        return ", ".join(_figure(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{visible(name)} {_figure(item)}" for name, item in value.items())
    return visible(value)


def _counts(counts: dict[str, Any]) -> Text:
    parts = []
    for name, number in counts.items():
        if isinstance(number, dict):
            number = {kind: count for kind, count in number.items() if count} or 0  # noqa: PLW2901 - zeros say nothing
        parts.append(Text.assemble((_figure(number), "bold"), f" {visible(name).replace('_', ' ')}"))
    return Text(", ").join(parts)
