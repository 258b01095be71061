"""The options of `trustsoc hunt`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Level(StrEnum):
    """Sigma's levels, rising."""

    informational = "informational"
    low = "low"
    medium = "medium"
    high = "high"
    critical = "critical"


class InputFormat(StrEnum):
    """What a file holds; see hunt.log_format."""

    auto = "auto"
    jsonl = "jsonl"
    json = "json"
    otlp = "otlp"
    evtx = "evtx"
    text = "text"


class OutputFormat(StrEnum):
    """How findings are written."""

    jsonl = "jsonl"
    csv = "csv"
    table = "table"


Many = list[str] | None

Files = Annotated[
    list[str], typer.Argument(metavar="FILE...", help="Files or folders, compressed or not; - is standard input.")
]
Rules = Annotated[
    Many,
    typer.Option(
        "--rules", "-r", help="File, folder or archive of rules; may be repeated.", show_default="starter pack"
    ),
]
Sha256 = Annotated[Many, typer.Option("--sha256", help="Digest that the rules must have; one for each --rules.")]
MinimumLevel = Annotated[Level, typer.Option("--level", "-l", help="Only rules of this level and above.")]
Tag = Annotated[Many, typer.Option("--tag", help="Only rules with such a tag, as attack.t1059*.")]
Status = Annotated[Many, typer.Option("--status", help="Only rules of this status.")]
Include = Annotated[Many, typer.Option("--include", help="Only the rules of these ids or names.")]
Exclude = Annotated[Many, typer.Option("--exclude", help="Not the rules of these ids or names.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Not before: 2026-03-01T12:00:00Z, or 30m, 2h, 7d ago.")
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before that time.")]
Extension = Annotated[Many, typer.Option("--ext", help="In folders: only files that end so, as json or evtx.")]
Glob = Annotated[Many, typer.Option("--glob", help="In folders: only files of such names or paths.")]
Holds = Annotated[InputFormat, typer.Option("--format", help="What the files hold.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write findings there.", dir_okay=False)]
Form = Annotated[OutputFormat, typer.Option("--output-format", "-f", help="How to write them.")]
Correlate = Annotated[bool, typer.Option("--correlate/--no-correlate", help="Judge correlations as well.")]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", min=1, max=1024, show_default="all cores")]
FailOn = Annotated[Level | None, typer.Option("--fail-on", help="Exit with 1 when something of this level is found.")]
Stats = Annotated[bool, typer.Option("--stats", help="Also what each rule found and costs, and what arrived.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no sums on standard error.")]
