"""`trustsoc send FILE...`: the command around cluster.send, with its progress bar and its final counts."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from cluster import render
from cluster.cli_options import AsJson, DataDir, Tenant, Url, keyring_of
from cluster.client import open_http
from cluster.command_error import EXIT_FAILED, UsageError
from cluster.log_files import STANDARD_INPUT, LogFile
from cluster.send import LogSender, SendCounts, SendOptions
from cluster.stated_time import stated_time
from cluster.terminal_text import text, visible

_REQUEST_SECONDS = 60.0


def send(  # noqa: PLR0913 - every option is a parameter
    *,
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Plain, .gz, .xz or .zst; - is standard input.")
    ],
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    host: Annotated[
        str | None, typer.Option("--host", help="host.name of the records.", show_default="this machine's name")
    ] = None,
    service: Annotated[str, typer.Option("--service", help="service.name of the records.")] = "",
    json_field: Annotated[
        str | None, typer.Option("--field", help="Each line is a JSON object: send the text in this field of it.")
    ] = None,
    rate: Annotated[float | None, typer.Option("--rate", min=0.1, help="At most so many records a second.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Send as new what the cluster already has.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ships log files into the cluster. Lines that state a time keep it; a file sent twice is counted once."""
    _check_files(files)
    options = SendOptions(host or socket.gethostname(), service, json_field, rate, again=again)
    keyring = keyring_of(data_dir, url)
    with open_http(keyring.base_url, None, _REQUEST_SECONDS) as http:
        sender = LogSender(http, stated_time, options)
        sender.check_server()
        http.headers["Authorization"] = f"Bearer {keyring.tenant_key(tenant)}"
        try:
            with _progress(render.terminal(sys.stderr), quiet=as_json) as sender.watch:
                sender.send(files)
        finally:
            _show_counts(sender.counts, tenant, as_json=as_json)
    if sender.counts.rejected or sender.counts.books.gap:
        raise typer.Exit(EXIT_FAILED)


class _FileProgress:
    """One bar a file, on standard error, so that standard output stays for the counts."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._path = ""
        self._task: TaskID | None = None
        self._sent = self._sent_before = 0

    def __call__(self, file: LogFile, counts: SendCounts) -> None:
        if self._task is None or file.path != self._path:
            self._path, self._sent_before = file.path, self._sent
            self._task = self._progress.add_task(visible(file.name), total=file.size, records=0)
        self._sent = counts.sent
        self._progress.update(self._task, completed=file.position(), records=counts.sent - self._sent_before)


@contextlib.contextmanager
def _progress(console: Console, *, quiet: bool) -> Iterator[_FileProgress]:
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.fields[records]:,} records"),
        TimeElapsedColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    )
    with bars:
        yield _FileProgress(bars)


def _check_files(names: list[str]) -> None:
    """A wrong name is found before anything is sent."""
    for name in names:
        if name != STANDARD_INPUT and not Path(name).is_file():
            what = "is a folder: name the files in it" if Path(name).is_dir() else "does not exist"
            raise UsageError(f"{name} {what}")


def _show_counts(counts: SendCounts, tenant: str | None, *, as_json: bool) -> None:
    if as_json:
        render.print_json(counts.as_json())
        return
    console = render.terminal()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    table.add_row("sent", f"{counts.sent:,}", f"records, {counts.bytes_sent:,} bytes on the wire")
    table.add_row("accepted", f"{counts.accepted:,}", "new: stored, and on their way to the detectors")
    if counts.duplicate:
        table.add_row("duplicate", f"{counts.duplicate:,}", "the cluster had them already")
    if counts.books.in_flight:
        table.add_row(Text("in flight", "yellow"), f"{counts.books.in_flight:,}", "not answered: send the file again")
    for reason, number in counts.reading.rejected.items():
        table.add_row(Text("rejected", "red"), f"{number:,}", text(reason))
    if counts.retried:
        table.add_row("retried", f"{counts.retried:,}", "requests sent again after a temporary failure")
    if counts.reading.without_time:
        table.add_row(
            "no time", f"{counts.reading.without_time:,}", "state no time: the file's modification time counts"
        )
    if counts.reading.mended:
        table.add_row("mended", f"{counts.reading.mended:,}", "held bytes that are no UTF-8")
    if counts.reading.empty:
        table.add_row("empty", f"{counts.reading.empty:,}", "blank lines, left out")
    if counts.books.accepted:
        style = "red" if counts.books.gap else "dim"
        table.add_row(Text("ledger", style), f"{counts.books.receipts:,}", text(f"receipts; {counts.books.verdict}"))
    console.print(table)
    if counts.accepted:
        option = f" --tenant {visible(tenant)}" if tenant else ""
        console.print(f"See what was found: trustsoc incidents{option}", style="dim")
