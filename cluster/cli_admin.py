"""Commands of the administrator: tenants and their keys."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from cluster import render
from cluster.cli_options import AsJson, DataDir, Tenant, Url, keyring_of
from cluster.cli_quota import quota
from cluster.client import path_segment
from cluster.credentials import make_key
from cluster.terminal_text import text, visible

tenant_app = typer.Typer(no_args_is_help=True, help="Tenants: whose data must never meet another's.")
key_app = typer.Typer(no_args_is_help=True, help="API keys of a tenant.")


class Scope(StrEnum):
    """What a key may do: ingest sends logs, read looks, write changes, operate tells agents what to do, reveal asks
    what masked names stand for."""

    ingest = "ingest"
    read = "read"
    write = "write"
    operate = "operate"
    reveal = "reveal"


@tenant_app.command("create")
def tenant_create(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits, dots, dashes and underscores.")],
    data_dir: DataDir = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Makes a tenant."""
    with keyring_of(data_dir, url).admin_client() as client:
        tenant = client.post("/api/admin/tenants", {"name": name})
    if as_json:
        render.print_json(tenant)
        return
    console = render.terminal()
    console.print(Text.assemble("Made tenant ", (visible(tenant["name"]), "bold"), "."))
    console.print(f"A key for its log senders: trustsoc key create LABEL --tenant {visible(tenant['name'])}")


@tenant_app.command("list")
def tenant_list(data_dir: DataDir = None, url: Url = None, as_json: AsJson = False) -> None:
    """All tenants."""
    with keyring_of(data_dir, url).admin_client() as client:
        render.show_items(client.listing("/api/admin/tenants"), render.tenants, as_json)


tenant_app.command("quota")(quota)


@key_app.command("create")
def key_create(
    label: Annotated[str, typer.Argument(help="Who or what will hold it, for example web-1.")],
    scope: Annotated[list[Scope], typer.Option("--scope", help="What it may do; give it again for more.")] = [  # noqa: B006 - typer never changes it
        Scope.ingest
    ],
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Makes a key and shows it this once."""
    keyring = keyring_of(data_dir, url)
    name = keyring.tenant_name(tenant)
    with keyring.admin_client() as client:
        key = make_key(client, name, label, tuple(item.value for item in scope))
    if as_json:
        render.print_json(key)
        return
    console = render.terminal()
    console.print(text(key["key"], "bold"), soft_wrap=True)
    scopes = ", ".join(str(item) for item in key.get("scopes") or [])
    console.print(text(f"Key {key.get('key_id')} of tenant {name} ({scopes}). It is shown this once: keep it now."))


@key_app.command("list")
def key_list(data_dir: DataDir = None, url: Url = None, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """The tenant's keys, without their secrets."""
    keyring = keyring_of(data_dir, url)
    with keyring.admin_client() as client:
        answer = client.listing(f"/api/admin/tenants/{path_segment(keyring.tenant_name(tenant))}/keys")
    render.show_items(answer, render.keys, as_json)


@key_app.command("revoke")
def key_revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY-ID", help="From `trustsoc key list`; not the key itself.")],
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
) -> None:
    """Revokes a key; the cluster stops taking it within seconds."""
    keyring = keyring_of(data_dir, url)
    name = keyring.tenant_name(tenant)
    with keyring.admin_client() as client:
        client.delete(f"/api/admin/tenants/{path_segment(name)}/keys/{path_segment(key_id)}")
    render.terminal().print(text(f"Revoked key {key_id} of tenant {name}."))
