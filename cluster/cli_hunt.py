"""`trustsoc hunt FILE...`: rules over files, without a cluster."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import typer
from rich.console import Console
from rich.text import Text

from cluster import cli_hunt_options as options
from cluster import render
from cluster.cli_hunt_options import InputFormat, Level, OutputFormat
from cluster.command_error import EXIT_FAILED, CommandError, UsageError
from cluster.terminal_text import text, visible

if TYPE_CHECKING:
    from hunt.books import HuntBooks
    from hunt.found import Found, FoundWriter
    from hunt.inputs import InputFile, NamedError
    from hunt.log_format import LogFormat
    from hunt.rule_cache import LoadedRules
    from hunt.rule_files import RuleFiles
    from hunt.run import HuntOptions, Watch

EXIT_FOUND = 1
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
_SHOWN_RULE_ERRORS = 10
_REFRESH_SECONDS = 0.1


def hunt(  # noqa: PLR0913 - every option is a parameter
    *,
    files: options.Files,
    rules: options.Rules = None,
    sha256: options.Sha256 = None,
    level: options.MinimumLevel = Level.informational,
    tag: options.Tag = None,
    status: options.Status = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    since: options.Since = None,
    until: options.Until = None,
    ext: options.Extension = None,
    glob: options.Glob = None,
    input_format: options.Holds = InputFormat.auto,
    output: options.Output = None,
    output_format: options.Form = OutputFormat.jsonl,
    correlate: options.Correlate = True,
    jobs: options.Jobs = None,
    fail_on: options.FailOn = None,
    stats: options.Stats = False,
    quiet: options.Quiet = False,
) -> None:
    """Sigma rules over log files, without a cluster: what matches, as JSON lines.

    JSON lines, JSON, OTLP/JSON, Windows event logs (EVTX), syslog, auditd and web logs; gzip, bzip2, xz, zstandard.
    """
    from hunt.inputs import find_files
    from hunt.rule_book import RuleChoice
    from hunt.run import HuntOptions

    asked = HuntOptions(
        RuleChoice(
            level.value, tuple(tag or ()), tuple(text.lower() for text in status or ()), tuple(include or ()),
            tuple(exclude or ()),
        ),
        _nanoseconds(since, "--since"),
        _nanoseconds(until, "--until"),
        correlate=correlate,
        jobs=jobs or len(os.sched_getaffinity(0)),
        stats=stats,
        format=_forced(input_format),
        cache=_cache_folder(),
    )  # fmt: skip
    console = render.terminal(sys.stderr)
    with _clean_end():
        paths, missing = find_files(files, ext or (), glob or ())
        rule_files, loaded = load_rules_of(rules or [], sha256 or [], asked, console, quiet=quiet)
        with _writer(output, output_format) as writer:
            books = _run(asked, rule_files, loaded, paths, missing, writer, console, quiet=quiet)
    if not quiet:
        _show(console, books, loaded, stats=stats)
    _exit(books, fail_on)


def load_rules_of(
    rules: list[str], pins: list[str], options: HuntOptions, console: Console, *, quiet: bool
) -> tuple[RuleFiles, LoadedRules]:
    """The rules of the paths, with every document that could not be loaded named on the console."""
    from hunt.rule_cache import load_rules
    from hunt.rule_files import UnusableRules, read_rule_files

    try:
        files = read_rule_files(rules, pins)
    except UnusableRules as error:
        raise UsageError(str(error)) from error
    loaded = load_rules(files.sources, options.choice, options.cache, options.correlate)
    broken = [*map(str, files.problems), *map(str, loaded.everything.errors)]
    if not quiet:
        for line in broken[:_SHOWN_RULE_ERRORS]:
            console.print(Text.assemble(("rule not loaded: ", "yellow"), visible(line)), soft_wrap=True)
        if len(broken) > _SHOWN_RULE_ERRORS:
            more = len(broken) - _SHOWN_RULE_ERRORS
            console.print(text(f"… and {more:,} more: see trustsoc rules lint", "yellow"))
    if not loaded.rules.rules:
        count = len(loaded.everything.rules)
        raise UsageError(f"no rule is left to judge by: {count} loaded, {len(broken)} not, none chosen")
    return files, loaded


def _run(
    options: HuntOptions,
    rule_files: RuleFiles,
    loaded: LoadedRules,
    paths: list[str],
    missing: list[NamedError],
    writer: FoundWriter,
    console: Console,
    *,
    quiet: bool,
) -> HuntBooks:
    from hunt.inputs import open_inputs
    from hunt.run import Hunt
    from hunt.team import WorkerFailed

    inputs, unreadable = open_inputs(paths, time.time_ns(), options.format)
    hunting = Hunt(options, rule_files.sources, loaded, inputs, [*missing, *unreadable])
    began = time.monotonic()
    try:
        with _progress(console, inputs, quiet=quiet) as watch:
            hunting.run(writer, watch)
    except WorkerFailed as error:
        raise CommandError(str(error)) from error
    hunting.books.seconds = time.monotonic() - began
    return hunting.books


@contextlib.contextmanager
def _clean_end() -> Iterator[None]:
    """Ctrl-C and a reader that has gone away end a hunt without a traceback."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise typer.Exit(EXIT_INTERRUPTED) from error
    except BrokenPipeError as error:
        _forget_unwritten()
        raise typer.Exit(EXIT_BROKEN_PIPE) from error


@contextlib.contextmanager
def _writer(output: Path | None, output_format: OutputFormat) -> Iterator[FoundWriter]:
    from hunt.found import CsvWriter, JsonLinesWriter

    stream: TextIO = sys.stdout
    if output is not None:
        try:
            stream = output.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error.strerror or error}") from error
    try:
        with _told_failures(output):
            match output_format:
                case OutputFormat.jsonl:
                    writer: FoundWriter = JsonLinesWriter(stream.buffer)
                case OutputFormat.csv:
                    writer = CsvWriter(stream)
                case OutputFormat.table:
                    from cluster.render_hunt import TableWriter

                    writer = TableWriter(render.terminal(stream))
        yield _TellingWriter(writer, output)
    finally:
        if output is not None:
            with contextlib.suppress(OSError):  # all that matters was flushed, or has failed already
                stream.close()


class _TellingWriter:
    """A writer whose failures end the command with the name of what it writes."""

    def __init__(self, writer: FoundWriter, output: Path | None) -> None:
        self._writer, self._output = writer, output

    def write(self, found: Found) -> None:
        with _told_failures(self._output):
            self._writer.write(found)

    def flush(self) -> None:
        with _told_failures(self._output):
            self._writer.flush()


@contextlib.contextmanager
def _told_failures(output: Path | None) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # no failure: whoever read it has seen enough
        raise
    except OSError as error:
        if output is None:
            _forget_unwritten()
        raise CommandError(f"cannot write {output or 'the findings'}: {error.strerror or error}") from error


def _forget_unwritten() -> None:
    """What Python would still flush to standard output at exit has nowhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _progress(console: Console, inputs: list[InputFile], *, quiet: bool) -> Iterator[Watch]:
    if quiet or not console.is_terminal:
        yield lambda _file, _read, _books: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.fields[records]:,} records, {task.fields[found]:,} found"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        auto_refresh=False,  # which takes a thread, and a process with threads is not copied for workers
    )
    shown = 0.0
    with bars:
        total = None if any(file.live for file in inputs) else sum(file.size for file in inputs)
        task = bars.add_task("hunting", total=total, records=0, found=0)

        def watch(file: InputFile, read: int, books: HuntBooks) -> None:
            nonlocal shown
            name = visible(Path(file.path).name)[-30:]
            bars.update(task, description=name, advance=read, records=books.records, found=books.found.total())
            if time.monotonic() - shown >= _REFRESH_SECONDS:
                shown = time.monotonic()
                bars.refresh()

        yield watch


def _show(console: Console, books: HuntBooks, loaded: LoadedRules, *, stats: bool) -> None:
    from cluster.render_hunt import arrival_counts, rule_costs, rule_counts, show_books
    from detect.sigma.coverage import coverage_of

    everything = (*loaded.rules.rules, *loaded.rules.correlations)
    if stats and books.hits:
        console.print(rule_counts(books, everything))
    if stats and books.costs:
        console.print(rule_costs(books, everything))
    if stats and books.arrivals is not None:
        console.print(arrival_counts(coverage_of(loaded.rules, books.arrivals)))
    show_books(console, books)
    console.print(text(f"{len(everything):,} rules judged, {len(loaded.everything.errors):,} not loaded", "dim"))


def _exit(books: HuntBooks, fail_on: Level | None) -> None:
    from cluster.render_hunt import LEVELS

    if fail_on is not None and any(books.found[level] for level in LEVELS[: LEVELS.index(fail_on.value) + 1]):
        raise typer.Exit(EXIT_FOUND)
    if books.files_failed:
        raise typer.Exit(EXIT_FAILED)


def _forced(chosen: InputFormat) -> LogFormat | None:
    from hunt.log_format import FORMATS

    return next((log_format for log_format in FORMATS if log_format == chosen.value), None)


def _nanoseconds(stated: str | None, option: str) -> int | None:
    if stated is None:
        return None
    from datetime import UTC, datetime, timedelta

    from cluster.moments import parse_moment

    since_epoch = datetime.fromisoformat(parse_moment(stated, option)) - datetime(1970, 1, 1, tzinfo=UTC)
    # Beyond what 64 bits hold (1677 to 2262) no record states a time, and the bound itself says the same.
    return max(-(2**63), min(since_epoch // timedelta(microseconds=1) * 1000, 2**63 - 1))


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "trustsoc" / "rules"


__all__ = ["hunt", "load_rules_of"]
