"""Commands for agents: enrolment tokens, who is there and how they are, labels, revocation, collector policies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

from cluster import render
from cluster.cli_options import AsJson, Cursor, DataDir, Limit, Tenant, Url, keyring_of
from cluster.client import path_segment
from cluster.command_error import CommandError, UsageError
from cluster.terminal_text import text, utc

agent_app = typer.Typer(no_args_is_help=True, help="Agents on hosts: enrolled by tokens, told what to do by jobs.")

Agent = Annotated[str, typer.Argument(help="Name of the agent, from `trustsoc agent list`.")]
LabelOption = Annotated[
    list[str] | None, typer.Option("--label", "-l", metavar="NAME=VALUE", help="Give it again for more.")
]

_STATUS_STYLES = {"ok": "green", "degraded": "yellow", "failing": "bold red", "unknown": "dim"}


@agent_app.command("token")
def agent_token(
    label: LabelOption = None,
    agent: Annotated[str | None, typer.Option("--agent", help="The only name that may use it.")] = None,
    hours: Annotated[float, typer.Option("--hours", min=0.1, max=720, help="How long it can be used.")] = 24.0,
    note: Annotated[str, typer.Option("--note", help="What it is for.")] = "",
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Makes a token that enrols one agent, and shows it this once."""
    keyring = keyring_of(data_dir, url)
    body = {"labels": labels_of(label), "agent": agent, "hours": hours, "note": note}
    with keyring.tenant_client(tenant) as client:
        made = client.post("/api/agent-tokens", body)
    if not isinstance(made, dict) or not isinstance(made.get("token"), str):
        raise CommandError("the server made a token but did not show it: is this Trust SOC?")
    if as_json:
        render.print_json(made)
        return
    console = render.terminal()
    console.print(text(made["token"], "bold"), soft_wrap=True)
    name = keyring.tenant_name(tenant)
    said = f"Enrols one agent of tenant {name} until {utc(made.get('expires_at'))}. It is shown this once: keep it now."
    console.print(text(said))


@agent_app.command("tokens")
def agent_tokens(data_dir: DataDir = None, url: Url = None, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Enrolment tokens without their secrets, the newest first."""
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        answer = client.listing("/api/agent-tokens")
    render.show_items(answer, _tokens, as_json)


@agent_app.command("revoke-token")
def agent_revoke_token(
    token_id: Annotated[str, typer.Argument(metavar="TOKEN-ID", help="From `trustsoc agent tokens`.")],
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
) -> None:
    """Ends a token that nobody has used."""
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        client.delete(f"/api/agent-tokens/{path_segment(token_id)}")
    render.terminal().print(text(f"Revoked token {token_id}."))


@agent_app.command("list")
def agent_list(
    label: LabelOption = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Agents by name: how they are, what they carry, when they were last heard of."""
    wanted = [f"{name}={value}" for name, value in labels_of(label).items()]
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        page = client.page("/api/agents", {"label": wanted, "cursor": cursor}, limit)
    render.show_items(page, _agents, as_json)


@agent_app.command("show")
def agent_show(
    agent: Agent, data_dir: DataDir = None, url: Url = None, tenant: Tenant = None, as_json: AsJson = False
) -> None:
    """One agent: its own words, its configuration, its certificates."""
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        found = client.get(f"/api/agents/{path_segment(agent)}")
    if as_json:
        render.print_json(found)
        return
    console = render.terminal()
    for name, value in _facts(found):
        console.print(Text.assemble((f"{name:<14}", "dim"), value), soft_wrap=True)


@agent_app.command("label")
def agent_label(
    agent: Agent,
    labels: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="None: no labels.")] = None,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Replaces an agent's labels, by which rollouts choose."""
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        changed = client.put(f"/api/agents/{path_segment(agent)}/labels", {"labels": labels_of(labels)})
    said = f"Agent {agent} carries: {_labels(changed) or 'no label'}."
    render.show(changed, lambda _: text(said), as_json)


@agent_app.command("revoke")
def agent_revoke(
    agent: Agent, data_dir: DataDir = None, url: Url = None, tenant: Tenant = None, as_json: AsJson = False
) -> None:
    """Ends an agent: its keys, its certificates and its open jobs."""
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        gone = client.post(f"/api/agents/{path_segment(agent)}/revoke", {})
    render.show(gone, _revoked, as_json)


@agent_app.command("policy")
def agent_policy(
    name: Annotated[str, typer.Argument(help="Name of the policy.")],
    file: Annotated[
        Path | None, typer.Argument(help="A collector's configuration; left out, the newest is shown.")
    ] = None,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Adds the next version of a collector's configuration, or shows the newest."""
    path = f"/api/agent-policies/{path_segment(name)}"
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        if file is None:
            found = client.get(path)
            render.show(found, lambda found: text(f"version {found['version']}, {found['digest']}"), as_json)
            if not as_json:
                render.terminal().print(Text(found["content"]), soft_wrap=True)
            return
        try:
            content = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {file}: {error}") from error
        made = client.post(path, {"content": content})
    said = f"Policy {name} version {made.get('version')}, digest {made.get('digest')}."
    render.show(made, lambda _: text(said), as_json)


def labels_of(given: Sequence[str] | None) -> dict[str, str]:
    """Labels from the command line. Raises UsageError for what is not NAME=VALUE."""
    found: dict[str, str] = {}
    for item in given or ():
        name, sign, value = item.partition("=")
        if not sign or not name:
            raise UsageError(f"{item!r} is no label: write it as name=value")
        found[name] = value
    return found


def _revoked(gone: dict[str, Any]) -> RenderableType:
    said = f"Revoked agent {gone.get('agent')} and {len(gone.get('certificates') or [])} certificates."
    if not gone.get("listed"):
        said += " They are not on the revocation list: put them on that of your own authority."
    return text(said)


def _agents(items: Sequence[Any]) -> RenderableType:
    if not items:
        return render.nothing("No agents.", "Make a token for one: trustsoc agent token")
    table = render.plain_table("agent", "status", "version", "last heard (UTC)", "lag", "labels")
    for item in items:
        lag = (item.get("health") or {}).get("lag_s")
        table.add_row(
            text(item.get("agent"), "bold"),
            _status(item),
            text(item.get("version")),
            utc(item["last_seen"]) if item.get("last_seen") else text("never", "dim"),
            text("-" if lag is None else f"{lag:.0f} s"),
            text(_labels(item), "dim"),
        )
    return table


def _tokens(items: Sequence[Any]) -> RenderableType:
    if not items:
        return render.nothing("No tokens.", "Make one: trustsoc agent token")
    table = render.plain_table("token id", "note", "labels", "good until (UTC)", "state")
    for item in items:
        state = text("open", "green")
        if item.get("revoked_at"):
            state = text("revoked", "dim")
        elif item.get("spent_by"):
            state = text(f"used by {item['spent_by']}", "dim")
        note = text(item.get("note") or "-")
        table.add_row(text(item.get("token_id")), note, text(_labels(item)), utc(item.get("expires_at")), state)
    return table


def _facts(found: dict[str, Any]) -> list[tuple[str, Text]]:
    health = found.get("health") or {}
    config = health.get("config") or {}
    facts = [
        ("agent", text(found.get("agent"), "bold")),
        ("status", _status(found)),
        ("says", text(health.get("detail") or "-")),
        ("version", text(f"{found.get('version')} on {found.get('platform') or 'unknown'}")),
        ("labels", text(_labels(found) or "-")),
        ("enrolled", text(f"{utc(found.get('enrolled_at'))} by {found.get('enrolled_by')}")),
        ("last heard", text(utc(found["last_seen"]) if found.get("last_seen") else "never")),
        ("running", text(config.get("running") or "-")),
        ("attempted", text(f"{config.get('attempted') or '-'} {config.get('state') or ''}".rstrip())),
    ]
    said, masking = health.get("masking") or {}, found.get("masking") or {}
    if said.get("state") == "on":
        masks = f"by policy {said.get('policy')} and the key {said.get('key')}"
    else:
        masks = "no" if said.get("state") == "off" else "-"
    facts.append(("masks", text(masks)))
    if masking.get("state") == "otherwise":
        facts.append(("", text(masking.get("detail") or "-", "yellow")))
    for name, value in sorted((health.get("spool") or {}).items()):
        facts.append((f"spool {name}"[:13], text(value)))
    for item in found.get("certificates") or []:
        state = "revoked" if item.get("revoked_at") else f"until {utc(item.get('ends'))}"
        facts.append(("certificate", text(f"{item.get('serial')} {state}")))
    return facts


def _status(item: dict[str, Any]) -> Text:
    if item.get("state") == "revoked":
        return text("revoked", "dim")
    status = str(item.get("status"))
    return text(status, _STATUS_STYLES.get(status, ""))


def _labels(item: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted((item.get("labels") or {}).items()))
