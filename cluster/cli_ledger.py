"""Commands about what was acknowledged: the loss ledger, and receipts that prove a batch."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Group, RenderableType
from rich.text import Text

from cluster import render
from cluster.cli_options import AsJson, Cursor, DataDir, Limit, Tenant, Url, directory_of, keyring_of
from cluster.client import ApiClient, ApiProblem
from cluster.command_error import CommandError
from cluster.terminal_text import shortened, text, utc, visible
from serve.ingest.receipts import (
    JWKS_PATH,
    InvalidReceipt,
    Receipt,
    ReceiptKeyError,
    rotate_key_file,
    verify_receipt,
)

receipt_app = typer.Typer(no_args_is_help=True, help="Receipts: proof that a batch was stored.")

KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        envvar="TRUSTSOC_RECEIPT_KEY_FILE",
        help="Where the receipt keys are.",
        show_default="in the data directory",
        dir_okay=False,
    ),
]


def ledger(
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Of this agent only.")] = None,
    limit: Limit = 1000,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """What each agent sent, run by run, and whether its books and the journal balance; the last seen first."""
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        page = client.page("/api/ledger", {"agent": agent, "cursor": cursor}, limit)
    render.show_items(page, _table, as_json)


@receipt_app.command("verify")
def receipt_verify(
    receipt: Annotated[str, typer.Argument(metavar="RECEIPT", help="The X-Receipt header of an answer; - reads it.")],
    keys: Annotated[
        Path | None,
        typer.Option("--keys", help="A saved key set.", show_default="the cluster's", exists=True, dir_okay=False),
    ] = None,
    body: Annotated[
        Path | None, typer.Option("--body", help="The body before compression: its SHA-256 must be the receipt's.")
    ] = None,
    online: Annotated[bool, typer.Option("--online", help="Ask whether the journal still holds the batch.")] = False,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Checks a receipt: its signature, and on request the body and the journal. With --keys it needs no network."""
    claims = _verified((sys.stdin.read() if receipt == "-" else receipt).strip(), _key_set(keys, data_dir, url))
    checked = ["signature"]
    if body is not None:
        _check_body(claims, body)
        checked.append("body")
    if online:
        with keyring_of(data_dir, url).tenant_client(tenant) as client:
            _check_journal(claims, client)
        checked.append("journal")
    shown = {name: getattr(claims, name) for name in ("tenant", "batch", "seq", "digest", "records")}
    if as_json:
        render.print_json(shown | {"verified": checked})
        return
    console = render.terminal()
    console.print(Text.assemble(("The receipt is good", "green"), f" ({', '.join(checked)})."))
    for name, value in shown.items():
        console.print(Text.assemble((f"{name:8}", "dim"), text(value)), soft_wrap=True)


@receipt_app.command("keys")
def receipt_keys(data_dir: DataDir = None, url: Url = None) -> None:
    """Prints the cluster's public keys: save them, and receipts verify without the cluster."""
    render.print_json(_key_set(None, data_dir, url))


@receipt_app.command("rotate")
def receipt_rotate(data_dir: DataDir = None, key_file: KeyFile = None) -> None:
    """Makes a new signing key, or the first one. The old one's private part is destroyed, its public part stays."""
    path = key_file or directory_of(data_dir).path / "receipt-keys.json"
    try:
        key_id = rotate_key_file(path)
    except ReceiptKeyError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"cannot write {path} ({error.strerror})") from error
    console = render.terminal()
    console.print(text(f"New receipt key {key_id} in {path}."), soft_wrap=True)
    console.print("It signs from the next start of the edge on; receipts of older keys go on verifying.")


def _key_set(keys: Path | None, data_dir: Path | None, url: str | None) -> Any:
    if keys is None:
        with ApiClient(keyring_of(data_dir, url).base_url) as client:
            return client.get(JWKS_PATH)
    try:
        return orjson.loads(keys.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise CommandError(f"{keys} is no key set: save one with `trustsoc receipt keys`") from error


def _verified(receipt: str, keys: Any) -> Receipt:
    try:
        return verify_receipt(receipt, keys)
    except (InvalidReceipt, ReceiptKeyError) as error:
        raise CommandError(f"the receipt is not good: {error}") from error


def _check_body(claims: Receipt, path: Path) -> None:
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CommandError(f"cannot read {path} ({error.strerror})") from error
    if digest != claims.digest:
        raise CommandError(
            f"the receipt is of another body: its SHA-256 before compression is {claims.digest}, "
            f"that of {path} {digest}"
        )


def _check_journal(claims: Receipt, client: ApiClient) -> None:
    try:
        batch = client.get(f"/api/batches/{claims.seq}")
    except ApiProblem as problem:
        if problem.status != 404:
            raise
        raise CommandError(f"the receipt is signed, but the batch is not there: {problem.detail}") from problem
    wrong = [name for name in ("tenant", "batch", "digest", "records") if batch.get(name) != getattr(claims, name)]
    if wrong:
        raise CommandError(f"the receipt is signed, but the journal's batch {claims.seq} differs in {', '.join(wrong)}")


def _table(items: Sequence[Any]) -> RenderableType:
    if not items:
        return render.nothing("The ledger is empty.", "Send some logs first: trustsoc send /var/log/auth.log")
    table = render.plain_table(
        "agent, run", "stored", "duplicate", "rejected", "in flight", "missing", "last seen (UTC)"
    )
    for column in (1, 2, 4, 5):
        table.columns[column].justify = "right"
    table.columns[3].min_width = 20
    table.columns[6].no_wrap = True
    for item in sorted(items, key=lambda item: str(item.get("last_seen")), reverse=True):
        server, said = item.get("server") or {}, item.get("statement")
        table.add_row(
            _name(item),
            f"{server.get('stored_records', 0):,}",
            f"{server.get('duplicate_records', 0):,}",
            _rejected(server, said),
            "-" if said is None else f"{said.get('in_flight', 0):,}",
            _missing(said),
            utc(item.get("last_seen")),
        )
    table.columns[0].no_wrap = True
    return Group(table, *(_finding(item) for item in items if (item.get("statement") or {}).get("detail")))


def _finding(item: dict[str, Any]) -> Text:
    where = f"\n{visible(item.get('agent'))} {visible(item.get('run'))}: "
    return Text.assemble((where, "bold"), text(item["statement"]["detail"], "red"))


def _name(item: dict[str, Any]) -> Text:
    name = text(item.get("agent"), "bold")
    if run := item.get("run"):
        name.append(f"\n{shortened(run, 24)}", style="not bold dim")
    return name


def _rejected(server: dict[str, Any], said: dict[str, Any] | None) -> Text:
    """By reason: the sender's own count of records where it keeps one, else the server's count of requests."""
    if said is not None:
        counts = {reason: f"{count:,}" for reason, count in (said.get("rejected") or {}).items()}
    else:
        refusals = [refusal for refusal in server.get("rejections") or [] if not refusal.get("retryable")]
        counts = {refusal.get("reason"): f"{refusal.get('requests', 0):,} requests" for refusal in refusals}
    return Text("\n").join(text(f"{reason} {count}") for reason, count in counts.items())


def _missing(said: dict[str, Any] | None) -> Text:
    if said is None:
        return Text("-")
    missing, excess = said.get("missing", 0), said.get("excess", 0)
    if not missing and not excess:
        return Text("0", "green")
    return Text(f"{missing:,}" + (f"\n{excess:,} too many" if excess else ""), "bold red")
