"""Commands of the administrator for signing keys: what senders sign their requests with at POST /ingest/logs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster import render
from cluster.cli_options import AsJson, DataDir, Tenant, Url, directory_of, keyring_of, moment
from cluster.client import path_segment
from cluster.command_error import CommandError
from cluster.terminal_text import text, utc
from serve.signing_masters import add_master

signing_app = typer.Typer(no_args_is_help=True, help="Signing keys of a tenant's agents.")

Agent = Annotated[str, typer.Argument(help="Who signs with it, for example web-1.")]


@signing_app.command("create")
def signing_key_create(
    agent: Agent,
    expires: Annotated[str | None, typer.Option("--expires", metavar="TIME", help="Not valid from then on.")] = None,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Makes a signing key beside those the agent has, and shows its secret this once."""
    body = {"agent": agent, "expires_at": moment(expires, "--expires")}
    _make(data_dir, url, tenant, "", body, as_json)


@signing_app.command("rotate")
def signing_key_rotate(
    agent: Agent,
    overlap_hours: Annotated[
        float, typer.Option("--overlap-hours", min=0, help="How long the keys it has go on.")
    ] = 24.0,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Makes a new signing key; the agent's old ones go on for the overlap, then end."""
    body = {"agent": agent, "overlap_hours": overlap_hours}
    _make(data_dir, url, tenant, "/rotate", body, as_json)


@signing_app.command("list")
def signing_key_list(data_dir: DataDir = None, url: Url = None, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """The tenant's signing keys, without their secrets."""
    keyring = keyring_of(data_dir, url)
    with keyring.admin_client() as client:
        answer = client.listing(_address(keyring.tenant_name(tenant)))
    render.show_items(answer, lambda items: _table(items, datetime.now(UTC)), as_json)


@signing_app.command("revoke")
def signing_key_revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY-ID", help="From `trustsoc signing-key list`.")],
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
) -> None:
    """Revokes a signing key; the cluster stops taking it within seconds."""
    keyring = keyring_of(data_dir, url)
    name = keyring.tenant_name(tenant)
    with keyring.admin_client() as client:
        client.delete(f"{_address(name)}/{path_segment(key_id)}")
    render.terminal().print(text(f"Revoked signing key {key_id} of tenant {name}."))


@signing_app.command("new-master")
def signing_key_new_master(data_dir: DataDir = None) -> None:
    """Makes the next master key in the data directory; keys made from now on derive from it."""
    directory = directory_of(data_dir)
    directory.create()
    number = add_master(directory.path / "signing")
    console = render.terminal()
    console.print(
        f"Made master key {number}. Rotate every agent's signing key, then remove the older masters' files, "
        "but none that a tenant masks by: see trustsoc masking show."
    )


def _make(
    data_dir: Path | None, url: str | None, tenant: str | None, suffix: str, body: dict[str, Any], as_json: bool
) -> None:
    keyring = keyring_of(data_dir, url)
    name = keyring.tenant_name(tenant)
    with keyring.admin_client() as client:
        made = client.post(f"{_address(name)}{suffix}", body)
    if not isinstance(made, dict) or not isinstance(made.get("secret"), str):
        raise CommandError("the server made a signing key but did not show it: is this Trust SOC?")
    if as_json:
        render.print_json(made)
        return
    console = render.terminal()
    console.print(text(made["secret"], "bold"), soft_wrap=True)
    console.print(
        text(
            f"Signing key {made.get('key_id')} of agent {made.get('agent')} of tenant {name}. "
            "Its secret is shown this once: keep it now."
        )
    )


def _address(tenant: str) -> str:
    return f"/api/admin/tenants/{path_segment(tenant)}/signing-keys"


def _table(items: Sequence[Any], now: datetime) -> Any:
    if not items:
        return render.nothing("No signing keys.", "Make one: trustsoc signing-key create AGENT")
    table = render.plain_table("key id", "agent", "master", "made at (UTC)", "state")
    for item in items:
        cells = (item.get("key_id"), item.get("master"))
        made = utc(item.get("created_at"))
        table.add_row(text(cells[0]), text(item.get("agent"), "bold"), text(cells[1]), made, _state(item, now))
    return table


def _state(item: Any, now: datetime) -> Any:
    if revoked := item.get("revoked_at"):
        return text(f"revoked {utc(revoked)}", "dim")
    if (expires := item.get("expires_at")) and datetime.fromisoformat(expires) <= now:
        return text(f"expired {utc(expires)}", "dim")
    if datetime.fromisoformat(item["not_before"]) > now:
        return text(f"from {utc(item['not_before'])}", "yellow")
    return text(f"until {utc(expires)}", "yellow") if expires else text("active", "green")
