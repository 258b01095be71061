"""Dead letters: what failed in judging, looked at and settled."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import RenderableType
from rich.text import Text

from cluster import render
from cluster.cli_options import AsJson, Cursor, DataDir, Limit, Tenant, Url, keyring_of
from cluster.client import path_segment
from cluster.command_error import CommandError, UsageError
from cluster.terminal_text import shortened, text, utc

deadletter_app = typer.Typer(no_args_is_help=True, help="Dead letters: what failed in judging and waits for somebody.")

_LARGEST_FIX = 4 * 2**20


class LetterState(StrEnum):
    """What can have become of a dead letter."""

    open = "open"
    retrying = "retrying"
    retried = "retried"
    fixed = "fixed"
    discarded = "discarded"
    any = "any"


LetterId = Annotated[str, typer.Argument(metavar="ID", help="As `trustsoc deadletter list` shows it.")]


@deadletter_app.command("list")
def list_letters(
    *,
    state: Annotated[LetterState, typer.Option("--state", help="In which state.")] = LetterState.open,
    stage: Annotated[str | None, typer.Option("--stage", help="decode, normalize, sigma, correlation, …")] = None,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    limit: Limit = 30,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """Dead letters, newest first."""
    query = {"state": state.value, "stage": stage, "cursor": cursor}
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        page = client.page("/api/dead-letters", query, limit)
    render.show_items(page, _letters, as_json)


@deadletter_app.command("show")
def show(
    letter_id: LetterId,
    request: Annotated[
        bool, typer.Option("--request", help="Print its records as OTLP/JSON, to be corrected.")
    ] = False,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """One dead letter with what it is about; `--request > FIXED.json` is where correcting begins."""
    path = f"/api/dead-letters/{path_segment(letter_id)}"
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        if request:
            render.print_json(client.get(f"{path}/request"))
            return
        letter = client.get(path)
    if as_json:
        render.print_json(letter)
        return
    console = render.terminal()
    for name, value in _facts(letter):
        console.print(Text.assemble((f"{name:<9}", "dim"), text(value)), soft_wrap=True)
    for record in letter.get("records") or []:
        console.print("")
        render.print_json(record)
    if letter.get("head") is not None:
        console.print(Text.assemble(("\nbegins   ", "dim"), text(letter["head"])), soft_wrap=True)
    if letter.get("pruned"):
        console.print(text("The journal does not hold its batch any more.", "yellow"))


@deadletter_app.command("retry")
def retry(
    letter_id: LetterId, data_dir: DataDir = None, url: Url = None, tenant: Tenant = None, as_json: AsJson = False
) -> None:
    """Has it judged again, by the version and the rules in force now."""
    _settle(data_dir, url, tenant, letter_id, "retry", {}, as_json)


@deadletter_app.command("discard")
def discard(
    letter_id: LetterId,
    reason: Annotated[str, typer.Option("--reason", help="Why nothing is to be done; kept in the audit log.")] = "",
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Says that nothing is to be done about it."""
    _settle(data_dir, url, tenant, letter_id, "discard", {"reason": reason}, as_json)


@deadletter_app.command("fix")
def fix(
    letter_id: LetterId,
    file: Annotated[Path, typer.Option("--file", "-f", help="The corrected OTLP/JSON request; - is standard input.")],
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Sends corrected records in its place; each says which record it corrects."""
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        letter = client.post(f"/api/dead-letters/{path_segment(letter_id)}/fix", _document(file))
    _say(letter, as_json)


def _document(file: Path) -> dict[str, Any]:
    try:
        document = sys.stdin.buffer.read(_LARGEST_FIX + 1) if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    if len(document) > _LARGEST_FIX:
        raise UsageError(f"{file} is larger than {_LARGEST_FIX} bytes")
    try:
        request = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{file} is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise UsageError(f'{file} is no OTLP request: it begins with {{"resourceLogs": …')
    return request


def _settle(
    data_dir: Path | None, url: str | None, tenant: str | None, letter_id: str, action: str, body: Any, as_json: bool
) -> None:
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        letter = client.post(f"/api/dead-letters/{path_segment(letter_id)}/{action}", body)
    _say(letter, as_json)


def _say(letter: Any, as_json: bool) -> None:
    if not isinstance(letter, dict):
        raise CommandError("the server did not answer with a dead letter: is this Trust SOC?")
    if as_json:
        render.print_json(letter)
        return
    seq = letter.get("retry_seq")
    by = f" by batch {seq}" if seq is not None else ""
    render.terminal().print(text(f"Dead letter {letter.get('letter_id')} is {letter.get('state')}{by}."))


def _letters(items: Sequence[Any]) -> RenderableType:
    if not items:
        return render.nothing("dead letters", "nothing waits")
    table = render.plain_table("parked (UTC)", "id", "state", "stage", "what", "where", "times", "error")
    for item in items:
        table.add_row(
            utc(item.get("created_at")),
            text(item.get("letter_id")),
            text(item.get("state")),
            text(item.get("stage")),
            text(shortened(item.get("subject"), 40)),
            text(_place(item)),
            text(item.get("count")),
            text(shortened(item.get("error"), 60)),
        )
    return table


def _place(item: dict[str, Any]) -> str:
    seq, position = item.get("seq"), item.get("position")
    if item.get("folded"):
        return f"{seq} to {item.get('last_seq')}"
    return f"batch {seq}" if position == -1 else f"{seq}-{position}"


def _facts(letter: dict[str, Any]) -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = [
        ("state", letter.get("state")),
        ("stage", letter.get("stage")),
        ("what", letter.get("subject")),
        ("where", _place(letter)),
        ("times", letter.get("count")),
        ("error", letter.get("error")),
        ("parked", utc(letter.get("created_at"))),
    ]
    if letter.get("settled_by"):
        facts.append(("settled", f"{utc(letter.get('settled_at'))} by {letter['settled_by']}"))
    return facts
