"""`trustsoc tenant quota`: what a tenant may send, shown and changed by the administrator."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from cluster import render
from cluster.cli_options import AsJson, DataDir, Url, keyring_of
from cluster.client import path_segment
from cluster.command_error import CommandError
from cluster.terminal_text import text

_MEANING = {
    "records_per_s": "records a second",
    "bytes_per_s": "bytes a second, as sent",
    "burst_s": "seconds of a rate at once",
    "agent_records_per_s": "records a second, each agent",
    "agent_bytes_per_s": "bytes a second, each agent",
    "weight": "share of the journal under contention",
    "max_backlog": "records that may wait for judgement",
}
_NEVER_UNLIMITED = {"burst_s", "weight"}


def quota(  # noqa: PLR0913, PLR0917 - one parameter an option of the command
    name: Annotated[str, typer.Argument(help="The tenant.")],
    records_per_s: Annotated[float | None, typer.Option(min=0, help="Log records a second; 0: no limit.")] = None,
    bytes_per_s: Annotated[float | None, typer.Option(min=0, help="Bytes a second, as sent; 0: no limit.")] = None,
    burst_s: Annotated[float | None, typer.Option(min=0.1, help="Seconds of a rate that may come at once.")] = None,
    agent_records_per_s: Annotated[float | None, typer.Option(min=0, help="The same for each agent.")] = None,
    agent_bytes_per_s: Annotated[float | None, typer.Option(min=0, help="The same for each agent.")] = None,
    weight: Annotated[float | None, typer.Option(min=0.01, help="Share of the journal under contention.")] = None,
    max_backlog: Annotated[int | None, typer.Option(min=0, help="Records that may wait for judgement.")] = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="Drop the tenant's own quota first.")] = False,
    data_dir: DataDir = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Shows a tenant's quota, or changes what the options name. In force on all replicas within seconds."""
    stated = {
        "records_per_s": records_per_s,
        "bytes_per_s": bytes_per_s,
        "burst_s": burst_s,
        "agent_records_per_s": agent_records_per_s,
        "agent_bytes_per_s": agent_bytes_per_s,
        "weight": weight,
        "max_backlog": max_backlog,
    }
    changes = {option: value for option, value in stated.items() if value is not None}
    path = f"/api/admin/tenants/{path_segment(name)}/quota"
    with keyring_of(data_dir, url).admin_client() as client:
        answer = client.get(path)
        if changes or defaults:
            own = (
                {}
                if defaults
                else {option: value for option, value in _part(answer, "own").items() if value is not None}
            )
            answer = client.put(path, own | changes)
    if as_json:
        render.print_json(answer)
        return
    render.terminal().print(_table(name, _part(answer, "own"), _part(answer, "in_force")))


def _part(answer: Any, part: str) -> dict[str, Any]:
    found = answer.get(part) if isinstance(answer, dict) else None
    if not isinstance(found, dict):
        raise CommandError("the server did not answer with a quota: is this Trust SOC?")
    return found


def _table(name: str, own: dict[str, Any], in_force: dict[str, Any]) -> Table:
    table = Table(title=text(f"Quota of tenant {name}"), title_justify="left", box=None, pad_edge=False)
    for heading in ("quota", "in force", "from", "meaning"):
        table.add_column(heading, justify="right" if heading == "in force" else "left")
    for option, meaning in _MEANING.items():
        value = in_force.get(option, 0)
        shown = "no limit" if not value and option not in _NEVER_UNLIMITED else f"{value:,.15g}"
        source = "default" if own.get(option) is None else "tenant"
        table.add_row(text(option), text(shown), text(source), text(meaning))
    return table
