"""`trustsoc replay`: judge past batches again, in memory, and see what would have been said."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from cluster import render
from cluster.cli_options import AsJson, DataDir, Tenant, Url, keyring_of
from cluster.cli_rules_server import rule_files
from cluster.client import open_http
from cluster.replay_progress import SILENCE_S, followed
from cluster.terminal_text import shortened, text, utc

_VERDICTS = {
    "same": "said again exactly",
    "missing": "stored, not said again",
    "new": "said now, not stored",
    "changed": "said again with another content",
    "pending": "stored, said by later batches",
}


def replay(
    *,
    first: Annotated[int, typer.Option("--from", metavar="SEQ", min=1, help="The first batch.")],
    last: Annotated[
        int | None, typer.Option("--to", metavar="SEQ", min=1, help="The last; all that is judged.")
    ] = None,
    rules: Annotated[
        Path | None, typer.Option("--rules", exists=True, help="Judge by these Sigma rules instead.")
    ] = None,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Judges past batches again and shows the difference to what is stored. Nothing is changed."""
    body: dict[str, Any] = {"from": first, "to": last}
    if rules is not None:
        body["rules"] = rule_files([str(rules)])
    keyring = keyring_of(data_dir, url)
    key = keyring.tenant_key(tenant)
    with open_http(keyring.base_url, key, SILENCE_S, tenant) as http:
        result = followed(http, keyring.base_url, "/api/replay", body, name="replay", quiet=as_json)
    if as_json:
        render.print_json(result)
    else:
        _show(render.terminal(), result)


def _show(console: Console, result: dict[str, Any]) -> None:
    span = f"batches {result.get('from')} to {result.get('to')}"
    differs = any(result.get(name) for name in ("missing", "new", "changed"))
    console.print(text(f"{'There are differences' if differs else 'No difference'} in {span}.", "bold"))
    for name, meaning in _VERDICTS.items():
        if result.get(name):
            console.print(Text.assemble(f"{result[name]:>8} ", (f"{name:<8}", "bold"), text(meaning, "dim")))
    samples = result.get("samples") or {}
    rows = [(name, item) for name in ("new", "missing", "changed") for item in samples.get(name) or []]
    if not rows:
        return
    table = render.plain_table("", "record", "time (UTC)", "severity", "title", "columns")
    for name, item in rows:
        columns = ", ".join(item.get("columns") or [])
        table.add_row(
            text(name),
            text(item.get("record")),
            utc(item.get("time")),
            render.severity(item.get("severity")),
            text(shortened(item.get("title"), 60)),
            text(columns),
        )
    console.print("")
    console.print(table)
