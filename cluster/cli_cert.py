"""Commands of the certificate authority for TLS at the edge: init, issue, renew, revoke, show."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from cluster import render
from cluster.certificates import CertificateAuthority, CertificateFile, own_hosts
from cluster.cli_options import AsJson, DataDir, Tenant, Url, directory_of, keyring_of
from cluster.command_error import CommandError, UsageError
from cluster.terminal_text import text, utc
from detect.record import TenantId
from serve.peer import PeerIdentity
from store.signing_keys import check_agent

cert_app = typer.Typer(no_args_is_help=True, help="Certificates for TLS at the edge, of an authority of your own.")

Hosts = Annotated[
    list[str] | None,
    typer.Option("--host", help="Name or address of the edge; give it again for more.", show_default="this machine's"),
]
Days = Annotated[int, typer.Option("--days", min=1, max=825, help="How long it is valid.")]
Name = Annotated[str, typer.Argument(help="`server`, or TENANT.AGENT as `trustsoc cert show` lists it.")]

_SOON = timedelta(days=14)


@cert_app.command("init")
def cert_init(host: Hosts = None, data_dir: DataDir = None) -> None:
    """Makes the authority and the edge's certificate."""
    directory = directory_of(data_dir)
    directory.create()
    authority = CertificateAuthority(directory.path / "tls")
    authority.create(host or own_hosts(), datetime.now(UTC))
    console = render.terminal()
    console.print(text(f"Made the authority {authority.certificate_path} and {authority.server_path}."))
    console.print("TLS is on where TRUSTSOC_TLS_PORT names a port at `trustsoc up`.")
    console.print("A certificate for a sender: trustsoc cert issue AGENT --tenant NAME")


@cert_app.command("issue")
def cert_issue(
    agent: Annotated[str, typer.Argument(help="Name of the sender, for example web-1.")],
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    tenant_id: Annotated[
        str | None, typer.Option("--tenant-id", help="The tenant's id, to issue while nothing is running.")
    ] = None,
    days: Days = 90,
) -> None:
    """Makes a key and certificate for an agent of a tenant."""
    try:
        check_agent(agent)
    except ValueError as error:
        raise UsageError(str(error)) from error
    directory = directory_of(data_dir)
    name = keyring_of(data_dir, url).tenant_name(tenant)
    identity = PeerIdentity(_tenant_id(data_dir, url, name, tenant_id), agent)
    path = CertificateAuthority(directory.path / "tls").issue_agent(name, identity, datetime.now(UTC), days)
    console = render.terminal()
    console.print(text(str(path), "bold"), soft_wrap=True)
    console.print(text(f"Certificate of agent {agent} of tenant {name} for {days} days; its key is {path.stem}.key."))
    console.print("Bring both to the sender with authority.pem, and remove the key here.")


@cert_app.command("renew")
def cert_renew(name: Name, data_dir: DataDir = None, host: Hosts = None) -> None:
    """Makes a new key and certificate with the same names; a running edge takes its own over within seconds."""
    authority = _authority(data_dir)
    now = datetime.now(UTC)
    if host:
        if name != "server":
            raise UsageError("--host goes with `server` only: an agent's certificate names the agent")
        path = authority.issue_server(host, now)
    else:
        path = authority.renew(_path_of(authority, name), now)
    render.terminal().print(text(f"Renewed {path}."), soft_wrap=True)


@cert_app.command("revoke")
def cert_revoke(name: Name, data_dir: DataDir = None) -> None:
    """Revokes an agent's certificate; a running edge refuses it within seconds."""
    if name == "server":
        raise UsageError("the edge's own certificate is renewed, not revoked: `trustsoc cert renew server`")
    authority = _authority(data_dir)
    path = _path_of(authority, name)
    authority.revoke(path, datetime.now(UTC))
    render.terminal().print(text(f"Revoked {path}."), soft_wrap=True)


@cert_app.command("show")
def cert_show(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """What the authority has issued, and until when it is valid."""
    found = _authority(data_dir).certificates()
    if as_json:
        render.print_json({"items": [_json(item) for item in found]})
        return
    render.terminal().print(_table(found, datetime.now(UTC)))


def _table(found: Sequence[CertificateFile], now: datetime) -> Any:
    if not found:
        return render.nothing("No certificates.", "Make the authority: trustsoc cert init")
    table = render.plain_table("file", "names", "valid until (UTC)", "state")
    for item in found:
        if item.revoked:
            state = text("revoked", "dim")
        elif item.ends <= now:
            state = text("expired", "bold red")
        else:
            state = text("expires soon", "yellow") if item.ends - now < _SOON else text("valid", "green")
        table.add_row(text(item.path.stem, "bold"), text(", ".join(item.names)), utc(item.ends.isoformat()), state)
    return table


def _json(item: CertificateFile) -> dict[str, Any]:
    return {
        "file": str(item.path),
        "subject": item.subject,
        "names": list(item.names),
        "serial": f"{item.serial:x}",
        "not_before": item.begins.isoformat(),
        "not_after": item.ends.isoformat(),
        "revoked": item.revoked,
    }


def _authority(data_dir: Path | None) -> CertificateAuthority:
    return CertificateAuthority(directory_of(data_dir).path / "tls")


def _path_of(authority: CertificateAuthority, name: str) -> Path:
    for item in authority.certificates():
        if item.path.stem == name and item.path != authority.certificate_path:
            return item.path
    raise CommandError(f"there is no certificate {name!r} in {authority.folder}: see `trustsoc cert show`")


def _tenant_id(data_dir: Path | None, url: str | None, name: str, stated: str | None) -> TenantId:
    if stated is not None:
        try:
            return TenantId(UUID(stated))
        except ValueError as error:
            raise UsageError(f"{stated!r} is no tenant id: `trustsoc tenant list --json` shows it") from error
    with keyring_of(data_dir, url).admin_client() as client:
        answer = client.get("/api/admin/tenants")
    for item in answer.get("items", []):
        if item.get("name") == name:
            return TenantId(UUID(item["tenant_id"]))
    raise CommandError(f"there is no tenant {name!r}: see `trustsoc tenant list`")
