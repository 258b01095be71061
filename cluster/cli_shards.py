"""The detector shards, for administrators: who holds what, and how many actors share them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

from cluster import render
from cluster.cli_options import AsJson, DataDir, Url, keyring_of
from cluster.client import path_segment
from cluster.command_error import CommandError
from cluster.terminal_text import text, utc, visible

shards_app = typer.Typer(help="Detector shards: who holds what, how far behind, and how many actors share them.")

TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.")]


@shards_app.callback(invoke_without_command=True)
def shards(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Show shards without tenants too.")] = False,
    data_dir: DataDir = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Shard by shard: actor, epoch, tenants, lag."""
    if context.invoked_subcommand is not None:
        return
    with keyring_of(data_dir, url).admin_client() as client:
        answer = client.get("/api/admin/shards")
    if not isinstance(answer, dict) or not isinstance(answer.get("shards"), list):
        raise CommandError("the server did not answer with shards: is this Trust SOC?")
    if as_json:
        render.print_json(answer)
        return
    console = render.terminal()
    console.print(_summary(answer))
    console.print(_actors(answer.get("actors") or []))
    shown = [item for item in answer["shards"] if every or item.get("tenants") or item.get("pinned")]
    if shown:
        console.print("")
        console.print(_shards(shown))


@shards_app.command("scale")
def scale(
    actors: Annotated[int, typer.Argument(metavar="N", min=1, max=1024, help="How many actors.")],
    data_dir: DataDir = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Sets how many actors share the shards; they follow within seconds, while everything goes on."""
    with keyring_of(data_dir, url).admin_client() as client:
        plan = client.put("/api/admin/shards/actors", {"actors": actors})
    if as_json:
        render.print_json(plan)
    else:
        render.terminal().print(text(f"{plan.get('desired_actors')} actors share the shards from now on."))


@shards_app.command("pin")
def pin(tenant: TenantName, data_dir: DataDir = None, url: Url = None, as_json: AsJson = False) -> None:
    """Gives a tenant an actor of its own."""
    with keyring_of(data_dir, url).admin_client() as client:
        _say_pin(client.put(f"/api/admin/tenants/{path_segment(tenant)}/pin", {}), as_json)


@shards_app.command("unpin")
def unpin(tenant: TenantName, data_dir: DataDir = None, url: Url = None, as_json: AsJson = False) -> None:
    """Puts a tenant back among the others."""
    with keyring_of(data_dir, url).admin_client() as client:
        _say_pin(client.delete(f"/api/admin/tenants/{path_segment(tenant)}/pin"), as_json)


def _say_pin(answer: Any, as_json: bool) -> None:
    if as_json:
        render.print_json(answer)
        return
    whose = "which it has to itself" if answer.get("pinned") else "beside other tenants"
    where = f"in shard {answer.get('shard')} by {answer.get('actor')}"
    render.terminal().print(text(f"{answer.get('tenant')} is judged {where}, {whose}."))


def _summary(answer: dict[str, Any]) -> Text:
    pinned, changed = answer.get("pinned_tenants") or 0, ""
    if answer.get("changed_at"):
        changed = f", changed {utc(answer['changed_at'])} by {visible(answer.get('changed_by'))}"
    return text(f"{answer.get('desired_actors')} actors share the shards, {pinned} tenants are pinned{changed}.")


def _actors(items: Sequence[Any]) -> RenderableType:
    table = render.plain_table("actor", "state", "shards", "tenants held", "records", "events", "behind", "parked")
    for item in items:
        counts = ("shards", "tenants", "records", "events", "lag_batches", "parked")
        table.add_row(text(item.get("actor")), text(item.get("state")), *(text(item.get(name, "-")) for name in counts))
    return table


def _shards(items: Sequence[Any]) -> RenderableType:
    table = render.plain_table("shard", "actor", "epoch", "tenants", "behind", "since (UTC)", "")
    for item in items:
        actor, wanted = item.get("actor"), item.get("wanted")
        note = "" if actor == wanted else f"goes to {wanted}"
        if item.get("pinned"):
            note = f"of {item['pinned']} alone {note}".strip()
        table.add_row(
            text(item.get("shard")),
            text(actor or "nobody"),
            text(item.get("epoch")),
            text(item.get("tenants")),
            text(item.get("lag_batches")),
            utc(item.get("claimed_at")),
            text(note),
        )
    return table
