"""A backtest for people: per rule and day what would be new, lost and changed, and some of it."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from cluster import render
from cluster.terminal_text import shortened, text, utc

_COUNTS = ("new", "lost", "changed", "same", "pending")


def show_backtest(console: Console, result: dict[str, Any]) -> None:
    """Prints the result line of POST /api/rules/backtest."""
    span = f"batches {result['from']} to {result['to']}, received {result['received_from']} to {result['received_to']}"
    counts = ", ".join(f"{result[name]:,} {name}" for name in _COUNTS if result[name])
    console.print(text(f"{counts or 'Nothing'} in {span}.", "bold"))
    repeats = result["repeats"]
    if any(repeats.values()):
        console.print(text(f"Folded into them: {repeats['said']:,} repeats, {repeats['stored']:,} as stored."))
    if not result["rules"]:
        return
    table = render.plain_table("rule", "day", *_COUNTS)
    for rule in result["rules"]:
        for day in rule["days"]:
            numbers = [text(f"{day[name]:,}") for name in _COUNTS]
            table.add_row(text(shortened(rule["title"], 50)), text(day["day"]), *numbers)
    console.print("")
    console.print(table)
    samples = render.plain_table("", "time (UTC)", "record", "severity", "title", "evidence")
    for rule in result["rules"]:
        for verdict, events in rule["samples"].items():
            for event in events:
                evidence = event["evidence"][0]["message"] if event["evidence"] else ""
                samples.add_row(
                    text(verdict),
                    utc(event["time"]),
                    text(event["record"]),
                    render.severity(event["severity"]),
                    text(shortened(event["title"], 40)),
                    text(shortened(evidence, 80)),
                )
    if samples.row_count:
        console.print("")
        console.print(samples)
