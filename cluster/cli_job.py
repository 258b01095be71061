"""Commands for jobs: make one, or a rollout in waves; look, approve with another key, cancel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

from cluster import render
from cluster.cli_agent import LabelOption, labels_of
from cluster.cli_options import AsJson, Cursor, DataDir, Limit, Tenant, Url, directory_of, keyring_of
from cluster.client import path_segment
from cluster.command_error import UsageError
from cluster.terminal_text import text, utc, visible
from serve.control.job_keys import add_job_key

job_app = typer.Typer(no_args_is_help=True, help="Jobs for agents: signed, leased, answered; in waves for many.")

Identifier = Annotated[str, typer.Argument(metavar="ID", help="From `trustsoc job list` or `job rollouts`.")]
OfRollout = Annotated[bool, typer.Option("--rollout", help="The id is a rollout's.")]

_STATE_STYLES = {
    "succeeded": "green",
    "running": "yellow",
    "leased": "yellow",
    "queued": "yellow",
    "awaiting_approval": "bold yellow",
    "failed": "bold red",
    "rejected": "bold red",
    "stopped": "bold red",
}


class JobType(StrEnum):
    """What an agent can be told."""

    PING = "PING"
    RULES_RELOAD = "RULES_RELOAD"
    UPDATE_CONFIG = "UPDATE_CONFIG"
    CERT_ROTATE = "CERT_ROTATE"
    UPGRADE = "UPGRADE"
    COLLECT_FILE = "COLLECT_FILE"
    BLOCK_IP = "BLOCK_IP"


@job_app.command("create")
def job_create(  # noqa: PLR0913, PLR0917 - an option each
    kind: Annotated[JobType, typer.Argument(metavar="TYPE", case_sensitive=False, help="For example PING.")],
    agent: Annotated[str | None, typer.Option("--agent", help="For this agent.")] = None,
    label: LabelOption = None,
    everybody: Annotated[bool, typer.Option("--all", help="For every agent, in waves.")] = False,
    argument: Annotated[
        list[str] | None, typer.Option("--arg", "-a", metavar="NAME=VALUE", help="Numbers are sent as numbers.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    lifetime: Annotated[int, typer.Option("--lifetime", metavar="SECONDS", min=10, help="Not begun later.")] = 3600,
    waves: Annotated[str, typer.Option("--waves", metavar="PERCENTS", help="They grow to 100.")] = "10,50,100",
    gate: Annotated[int, typer.Option("--gate", metavar="SECONDS", min=0, help="Wait after each wave.")] = 300,
    most_failures: Annotated[int, typer.Option("--most-failures", min=0, help="More stop the rollout.")] = 0,
    key: Annotated[str | None, typer.Option("--idempotency-key", help="The same key makes one job.")] = None,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Makes a job for one agent, or with --label or --all a rollout in waves."""
    if sum((agent is not None, bool(label), everybody)) != 1:
        raise UsageError("name who it is for: one of --agent, --label or --all")
    body: dict[str, Any] = {
        "type": kind.value,
        "args": _arguments(argument),
        "dry_run": dry_run,
        "lifetime_s": lifetime,
    }
    if agent is not None:
        body |= {"agent": agent, "idempotency_key": key}
    else:
        body |= {"labels": labels_of(label), "waves": _percents(waves), "gate_s": gate, "most_failures": most_failures}
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        made = client.post("/api/jobs", body)
    render.show(made, _made, as_json)


@job_app.command("list")
def job_list(  # noqa: PLR0913, PLR0917 - an option each
    state: Annotated[str | None, typer.Option("--state", help="For example queued or failed.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Of this agent.")] = None,
    rollout: Annotated[str | None, typer.Option("--rollout", metavar="ID", help="Of this rollout.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Jobs, the newest first."""
    query = {"state": state, "agent": agent, "rollout": rollout, "cursor": cursor}
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        page = client.page("/api/jobs", query, limit)
    render.show_items(page, _jobs, as_json)


@job_app.command("rollouts")
def job_rollouts(
    limit: Limit = 20,
    cursor: Cursor = None,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Rollouts, the newest first."""
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        page = client.page("/api/rollouts", {"cursor": cursor}, limit)
    render.show_items(page, _rollouts, as_json)


@job_app.command("show")
def job_show(
    identifier: Identifier,
    of_rollout: OfRollout = False,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """One job with what it printed and what was signed, or one rollout with its waves."""
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        found = client.get(_path(identifier, of_rollout))
    if as_json:
        render.print_json(found)
        return
    console = render.terminal()
    for name, value in _rollout_facts(found) if of_rollout else _job_facts(found):
        console.print(Text.assemble((f"{name:<10}", "dim"), value), soft_wrap=True)
    for line in str(found.get("output") or "").splitlines():
        console.print(text(line), soft_wrap=True)


@job_app.command("approve")
def job_approve(
    identifier: Identifier,
    of_rollout: OfRollout = False,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Lets a job or rollout begin that waits for approval; not with the key that made it (TRUSTSOC_API_KEY)."""
    _settle(keyring_of(data_dir, url).tenant_client(tenant), identifier, of_rollout, "approve", as_json)


@job_app.command("cancel")
def job_cancel(
    identifier: Identifier,
    of_rollout: OfRollout = False,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Ends a job that no agent has, or a rollout."""
    _settle(keyring_of(data_dir, url).tenant_client(tenant), identifier, of_rollout, "cancel", as_json)


@job_app.command("new-key")
def job_new_key(data_dir: DataDir = None) -> None:
    """Makes the next key that signs jobs; agents learn of it at their next poll, from the key before it."""
    directory = directory_of(data_dir)
    directory.create()
    number = add_job_key(directory.path / "job-keys")
    render.terminal().print(f"Made job key {number}. Every agent must poll once before the next one is made.")


def _settle(opened: Any, identifier: str, of_rollout: bool, action: str, as_json: bool) -> None:
    with opened as client:
        settled = client.post(f"{_path(identifier, of_rollout)}/{action}", {})
    what = "Rollout" if of_rollout else "Job"
    render.show(settled, lambda settled: text(f"{what} {identifier} is {settled.get('state')}."), as_json)


def _path(identifier: str, of_rollout: bool) -> str:
    return f"/api/{'rollouts' if of_rollout else 'jobs'}/{path_segment(identifier)}"


def _arguments(given: Sequence[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in given or ():
        name, sign, value = item.partition("=")
        if not sign or not name:
            raise UsageError(f"{item!r} is no argument: write it as name=value")
        found[name] = int(value) if value.isascii() and value.isdigit() else value
    return found


def _percents(given: str) -> list[int]:
    try:
        return [int(part) for part in given.split(",")]
    except ValueError as error:
        raise UsageError(f"{given!r} are no waves: write percents that grow, as 10,50,100") from error


def _made(made: dict[str, Any]) -> RenderableType:
    if rollout := made.get("rollout"):
        said = f"Rollout {rollout['rollout_id']} over {rollout['agents']} agents is {rollout['state']}."
        return text(said if rollout["state"] == "running" else f"{said} Another key must approve it.")
    job = made["job"]
    said = f"Job {job['job_id']} for {job['agent']} is {job['state']}."
    return text(f"{said} Another key must approve it." if job["state"] == "awaiting_approval" else said)


def _jobs(items: Sequence[Any]) -> RenderableType:
    if not items:
        return render.nothing("No jobs.", "Make one: trustsoc job create PING --agent NAME")
    table = render.plain_table("made at (UTC)", "job", "type", "agent", "state", "reason")
    for item in items:
        kind = text(item.get("type"), "bold")
        if item.get("dry_run"):
            kind.append(" (dry run)", style="not bold")
        reason = text(item.get("reason") or "-")
        job = text(item.get("job_id"), "dim")
        table.add_row(utc(item.get("created_at")), job, kind, text(item.get("agent")), _state(item), reason)
    return table


def _rollouts(items: Sequence[Any]) -> RenderableType:
    if not items:
        return render.nothing("No rollouts.", "Make one: trustsoc job create PING --all")
    table = render.plain_table("made at (UTC)", "rollout", "type", "agents", "wave", "state")
    for item in items:
        wave = text(f"{item.get('wave')} of {len(item.get('waves') or [])}")
        names = (text(item.get("rollout_id"), "dim"), text(item.get("type"), "bold"), text(item.get("agents")))
        table.add_row(utc(item.get("created_at")), *names, wave, _state(item))
    return table


def _job_facts(found: dict[str, Any]) -> list[tuple[str, Text]]:
    who = found.get("approved_by")
    return [
        ("job", text(found.get("job_id"), "bold")),
        ("type", text(f"{found.get('type')}{' (dry run)' if found.get('dry_run') else ''}")),
        ("agent", text(found.get("agent"))),
        ("arguments", text(json.dumps(found.get("args"), ensure_ascii=True))),
        ("state", _state(found)),
        ("reason", text(f"{found.get('reason') or '-'} {found.get('detail') or ''}".rstrip())),
        ("made", text(f"{utc(found.get('created_at'))} by {found.get('created_by')}")),
        ("approved", text(f"{utc(found.get('approved_at'))} by {who}" if who else "-")),
        ("handed out", text(f"{found.get('attempt')} of {found.get('max_attempts')} times, key {found.get('key_id')}")),
        ("ended", text(utc(found["ended_at"]) if found.get("ended_at") else "-")),
        ("file", text(f"{found['file_size']} bytes, {found['file_digest']}" if found.get("file_digest") else "-")),
    ]


def _rollout_facts(found: dict[str, Any]) -> list[tuple[str, Text]]:
    facts = [
        ("rollout", text(found.get("rollout_id"), "bold")),
        ("type", text(found.get("type"))),
        ("state", _state(found)),
        ("detail", text(found.get("detail") or "-")),
        ("failures", text(f"{found.get('failures')}, {found.get('most_failures')} are allowed")),
    ]
    for wave, counts in sorted((found.get("counts") or {}).items(), key=lambda item: int(item[0])):
        said = ", ".join(f"{number} {visible(state)}" for state, number in sorted(counts.items()))
        facts.append((f"wave {wave}", text(said)))
    return facts


def _state(item: dict[str, Any]) -> Text:
    state = "held" if item.get("held") and item.get("state") == "queued" else str(item.get("state"))
    return text(state.replace("_", " "), _STATE_STYLES.get(state, "dim"))
