"""Commands of the administrator about what is kept: legal holds, and a tenant's own retention of raw logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from cluster import render
from cluster.cli_options import AsJson, DataDir, Tenant, Url, keyring_of, moment
from cluster.client import path_segment
from cluster.command_error import UsageError
from cluster.credentials import Keyring
from cluster.terminal_text import text, utc

hold_app = typer.Typer(no_args_is_help=True, help="Legal holds: what must not be deleted, whatever its age.")
retention_app = typer.Typer(no_args_is_help=True, help="How long a tenant's raw logs are kept.")

ReasonWhy = Annotated[str, typer.Option("--reason", help="The case or order; kept in the audit log.")]


@hold_app.command("place")
def hold_place(
    *,
    reason: ReasonWhy,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="What was received since; all when left out.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="What was received before.")] = None,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Places a hold: from now on nothing that it covers is deleted."""
    keyring = keyring_of(data_dir, url)
    body = {"reason": reason, "from": moment(start, "--from"), "to": moment(end, "--to")}
    with keyring.admin_client() as client:
        hold = client.post(_path(keyring, tenant, "holds"), body)
    name = keyring.tenant_name(tenant)
    render.show(hold, lambda hold: text(f"Hold {hold['hold_id']} is in force for tenant {name}."), as_json)


@hold_app.command("list")
def hold_list(data_dir: DataDir = None, url: Url = None, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """The tenant's holds, those in force first."""
    keyring = keyring_of(data_dir, url)
    with keyring.admin_client() as client:
        answer = client.listing(_path(keyring, tenant, "holds"))
    render.show_items(answer, _table, as_json)


@hold_app.command("release")
def hold_release(
    hold_id: Annotated[str, typer.Argument(metavar="HOLD-ID", help="From `trustsoc hold list`.")],
    *,
    reason: ReasonWhy,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Ends a hold; what it kept past its time goes with the next sweep."""
    keyring = keyring_of(data_dir, url)
    with keyring.admin_client() as client:
        path = _path(keyring, tenant, "holds") + f"/{path_segment(hold_id)}/release"
        hold = client.post(path, {"reason": reason})
    name = keyring.tenant_name(tenant)
    render.show(hold, lambda _: text(f"Released hold {hold_id} of tenant {name}."), as_json)


@retention_app.command("show")
def retention_show(data_dir: DataDir = None, url: Url = None, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """How long the tenant's raw logs are kept."""
    keyring = keyring_of(data_dir, url)
    with keyring.admin_client() as client:
        _show_retention(client.get(_path(keyring, tenant, "retention")), keyring.tenant_name(tenant), as_json)


@retention_app.command("set")
def retention_set(
    days: Annotated[str, typer.Argument(metavar="DAYS|default", help="1 to 3650, or the installation's figure.")],
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Gives the tenant a retention of its own. What is older goes with the next sweep, unless a hold keeps it."""
    if days != "default" and not days.isdecimal():
        raise UsageError("write a number of days, or `default`")
    keyring = keyring_of(data_dir, url)
    wanted = None if days == "default" else int(days)
    with keyring.admin_client() as client:
        answer = client.put(_path(keyring, tenant, "retention"), {"raw_log_days": wanted})
    _show_retention(answer, keyring.tenant_name(tenant), as_json)


def _path(keyring: Keyring, tenant: str | None, what: str) -> str:
    return f"/api/admin/tenants/{path_segment(keyring.tenant_name(tenant))}/{what}"


def _show_retention(answer: dict[str, Any], tenant: str, as_json: bool) -> None:
    def said(answer: dict[str, Any]) -> RenderableType:
        whose = "its own figure" if answer["own"] else "the installation's"
        return text(f"Raw logs of tenant {tenant} are kept for {answer['raw_log_days']} days ({whose}).")

    render.show(answer, said, as_json)


def _table(items: Sequence[Any]) -> RenderableType:
    if not items:
        return render.nothing("No holds.", "Place one: trustsoc hold place --reason 'case 17' --from 2026-03-01")
    table = render.plain_table("hold", "received from", "to", "reason", "placed", "state")
    for item in items:
        released = item.get("released_at")
        table.add_row(
            text(item.get("hold_id")),
            utc(item["from"]) if item.get("from") else text("the beginning", "dim"),
            utc(item["to"]) if item.get("to") else text("no end", "dim"),
            text(item.get("reason")),
            utc(item.get("placed_at")),
            text(f"released {utc(released)}", "dim") if released else text("in force", "bold yellow"),
        )
    return table
