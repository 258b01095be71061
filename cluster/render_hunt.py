"""What a hunt found, for a person: one finding after the other, and the sums at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster import render
from cluster.terminal_text import shortened, text, utc, visible
from detect.sigma.coverage import VERDICTS
from hunt.found import Found, matched_text, rfc3339

if TYPE_CHECKING:
    from detect.sigma.coverage import CoverageReport
    from detect.sigma.rule import RuleHeader
    from hunt.books import HuntBooks

LEVELS: Final = ("critical", "high", "medium", "low", "informational")
_SHOWN_ERRORS: Final = 20
_SHOWN_RULES: Final = 30
_SHOWN_COSTS: Final = 10
_MATCHED: Final = 160


class TableWriter:
    """A line or two for each finding, as they come."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, found: Found) -> None:
        """Shows one finding."""
        matched = orjson.loads(b"{" + found.tail)["matched"]
        line = Text.assemble(
            (utc(rfc3339(found.time_ns)).ljust(20), "dim"), "  ", render.severity(found.level), "  ",
            (visible(found.rule.title), "bold"),
        )  # fmt: skip
        line.append(f"  {visible(found.file)}:{found.line}", style="dim")
        self._console.print(line, soft_wrap=True)
        self._console.print(text(f"    {shortened(matched_text(matched), _MATCHED)}"), soft_wrap=True)

    def flush(self) -> None:
        """Lets whoever reads along see what was written."""
        self._console.file.flush()


def show_errors(console: Console, books: HuntBooks) -> None:
    """What went wrong, by name and place; of very much, the first."""
    for named in books.errors[:_SHOWN_ERRORS]:
        console.print(Text.assemble(("error: ", "bold red"), visible(named)), soft_wrap=True)
    if books.error_count > _SHOWN_ERRORS:
        console.print(text(f"… and {books.error_count - min(len(books.errors), _SHOWN_ERRORS):,} more", "red"))
    for rule_id, (count, error) in books.faults.items():
        console.print(text(f"rule {rule_id} failed on {count:,} records: {error}", "red"), soft_wrap=True)


def show_books(console: Console, books: HuntBooks) -> None:
    """The sums of a hunt: every line and every record accounted for, and what went wrong by name."""
    show_errors(console, books)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    failed = f"{books.files_failed:,} not read, or not to the end" if books.files_failed else ""
    table.add_row("files", f"{books.files:,}", text(failed, "red"))
    skipped = "".join(f" + {count:,} skipped ({reason})" for reason, count in sorted(books.skipped.items()))
    table.add_row(
        "lines", f"{books.lines:,}", text(f"= {books.carrying:,} with records + {books.blank:,} blank{skipped}")
    )
    failed = f" + {books.failed:,} failed" if books.failed else ""
    outside = f"= {books.judged:,} judged + {books.outside:,} outside the time{failed}"
    table.add_row("records", f"{books.records:,}", text(outside))
    if books.mended:
        table.add_row("mended", f"{books.mended:,}", "held bytes that are no UTF-8, or are not quite JSON")
    found = ", ".join(f"{books.found[level]:,} {level}" for level in LEVELS if books.found[level])
    table.add_row("found", f"{books.found.total():,}", text(found))
    if books.seconds:
        table.add_row("took", f"{books.seconds:,.1f} s", text(f"{books.records / books.seconds:,.0f} records a second"))
    console.print(table)
    if not books.balanced:
        console.print(text("These sums do not add up, which is a defect: please report it.", "bold red"))


def arrival_counts(report: CoverageReport) -> Table:
    """Records of each log source and the rules meant for them, and how many rules could never fire on these files."""
    table = render.plain_table("product", "category", "service", "records", "rules")
    for logsource, records, rules in report.sources[:_SHOWN_RULES]:
        table.add_row(*(text(part or "-") for part in logsource), f"{records:,}", f"{rules:,}")
    table.caption = text(", ".join(f"{report.count(verdict):,} rules: {verdict}" for verdict in VERDICTS))
    table.caption_justify = "left"
    return table


def rule_costs(books: HuntBooks, rules: Sequence[RuleHeader]) -> Table:
    """The rules that cost most, each judged alone on a sample of the records meant for it."""
    table = render.plain_table("rule", "judged", "mean cost alone")
    sampled = [(books.costs[rule.id], rule) for rule in rules if rule.id in books.costs]
    sampled.sort(key=lambda item: -item[0][1] / item[0][0])
    for (times, nanoseconds), rule in sampled[:_SHOWN_COSTS]:
        table.add_row(text(rule.title), f"{times:,}", f"{nanoseconds / times / 1000:,.1f} µs")
    return table


def rule_counts(books: HuntBooks, rules: Sequence[RuleHeader]) -> Table:
    """The rules that found most, most severe first."""
    table = render.plain_table("level", "rule", "found")
    hit = [rule for rule in rules if books.hits[rule.id]]
    hit.sort(key=lambda rule: (LEVELS.index(rule.level), -books.hits[rule.id], rule.title))
    for rule in hit[:_SHOWN_RULES]:
        table.add_row(render.severity(rule.level), text(rule.title), f"{books.hits[rule.id]:,}")
    if len(hit) > _SHOWN_RULES:
        table.add_row("", text(f"… and {len(hit) - _SHOWN_RULES} more rules"), "")
    return table


def show_coverage(console: Console, report: CoverageReport, *, show_all: bool) -> None:
    """Rules that cannot fire on what arrived and why, then the log sources that arrived."""
    table = render.plain_table("verdict", "level", "rule", "log source", "never came")
    for rule in report.rules:
        if rule.verdict == "can fire" and not (show_all or rule.missing):
            continue
        source = "-" if rule.logsource is None else "/".join(part or "*" for part in rule.logsource)
        table.add_row(
            text(rule.verdict, "" if rule.verdict == "can fire" else "yellow"),
            render.severity(rule.level),
            text(rule.title),
            text(source),
            text(", ".join(rule.needed or rule.missing)),
        )
    if table.row_count:
        console.print(table)
    console.print(arrival_counts(report))
