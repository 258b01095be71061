"""Commands for masking: whether a tenant's agents send tokens for names and addresses, and what tokens stand for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

from cluster import render
from cluster.cli_options import AsJson, DataDir, Tenant, Url, keyring_of
from cluster.client import path_segment
from cluster.command_error import CommandError, UsageError
from cluster.terminal_text import text, utc

masking_app = typer.Typer(
    no_args_is_help=True, help="Masking: agents send keyed tokens in place of names and addresses."
)

_OUTCOMES = {
    "address": "turned back by the key",
    "candidate": "found among the candidates",
    "unknown": "none of the candidates",
    "no token": "no token",
}
_STYLES = {"address": "bold", "candidate": "bold", "unknown": "yellow", "no token": "dim"}


@masking_app.command("on")
def masking_on(
    new_key: Annotated[
        bool, typer.Option("--new-key", help="By the newest master from now on: its tokens compare with no older ones.")
    ] = False,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Gives agents that are enrolled from now on the tenant's masking key."""
    _change(data_dir, url, tenant, {"enabled": True, "new_key": new_key}, as_json)


@masking_app.command("off")
def masking_off(data_dir: DataDir = None, url: Url = None, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Gives agents that are enrolled from now on no masking key."""
    _change(data_dir, url, tenant, {"enabled": False}, as_json)


@masking_app.command("show")
def masking_show(data_dir: DataDir = None, url: Url = None, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Whether the tenant masks, by which master, and which agents do not do so yet."""
    keyring = keyring_of(data_dir, url)
    with keyring.admin_client() as client:
        found = client.get(_address(keyring.tenant_name(tenant)))
    render.show(_checked(found), _state, as_json)


def reveal(
    tokens: Annotated[list[str], typer.Argument(metavar="TOKEN...", help="At most 100.")],
    reason: Annotated[str, typer.Option("--reason", help="Why you ask; it stays in the audit log.")],
    candidates: Annotated[
        Path | None,
        typer.Option(
            "--candidates", metavar="FILE", help="Names they may stand for, one a line, at most 20,000; never kept."
        ),
    ] = None,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """What masked names and addresses stand for.

    It needs a key of its own: `trustsoc key create LABEL --scope reveal`, then TRUSTSOC_API_KEY.
    """
    names = [] if candidates is None else _lines(candidates)
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        answer = client.post("/api/reveal", {"tokens": tokens, "candidates": names, "reason": reason})
    if not isinstance(answer, dict) or not isinstance(answer.get("items"), list):
        raise CommandError("the server did not answer about the tokens: is this Trust SOC?")
    render.show_items(answer, _revealed, as_json)
    if (missing := answer.get("missing_keys")) and not as_json:
        numbers = ", ".join(str(number) for number in missing)
        said = f"Not tried, because their masters' files are missing on the server: {numbers}."
        render.terminal().print(text(said, "yellow"))


def _change(data_dir: Path | None, url: str | None, tenant: str | None, body: dict[str, Any], as_json: bool) -> None:
    keyring = keyring_of(data_dir, url)
    with keyring.admin_client() as client:
        changed = client.put(_address(keyring.tenant_name(tenant)), body)
    render.show(_checked(changed), _state, as_json)


def _address(tenant: str) -> str:
    return f"/api/admin/tenants/{path_segment(tenant)}/masking"


def _checked(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict) or not isinstance(answer.get("enabled"), bool):
        raise CommandError("the server did not answer with a setting of masking: is this Trust SOC?")
    return answer


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the candidates in {path}: {error}") from error
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _state(state: Any) -> RenderableType:
    key, others = state.get("key"), state.get("agents_to_enrol") or 0
    lines = [
        Text.assemble("Masking is ", ("on", "green") if state["enabled"] else ("off", "dim"), " for new agents."),
    ]
    if key is not None:
        fingerprint = state.get("fingerprint")
        held = f"fingerprint {fingerprint}" if fingerprint else "its file is missing: put it back"
        lines.append(text(f"The key is of master {key} ({held})."))
        kept = ", ".join(f"{number}.key" for number in state.get("keys") or [])
        lines.append(text(f"Never delete {kept} of the signing folder: tokens of it would stand for nothing."))
        lines.append(text(f"Changed by {state.get('changed_by')}, {utc(state.get('changed_at'))}.", "dim"))
    if others:
        does = "do not mask with it yet" if state["enabled"] else "go on masking"
        lines.append(text(f"{others} agents were enrolled before and {does}: revoke and enrol them again.", "yellow"))
    return Text("\n").join(lines)


def _revealed(items: Sequence[Any]) -> RenderableType:
    table = render.plain_table("token", "stands for", "how", "key")
    for item in items:
        outcome = str(item.get("outcome"))
        table.add_row(
            text(item.get("token")),
            text(item.get("clear") or "", "bold"),
            text(_OUTCOMES.get(outcome, outcome), _STYLES.get(outcome, "")),
            text(item.get("key") or ""),
        )
    return table
