"""`trustsoc rules ...` on a running system: packs, what a tenant makes of them, and what rules would have said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import RenderableType
from rich.text import Text

from cluster import render
from cluster.cli_options import AsJson, Cursor, DataDir, Limit, Tenant, Url, keyring_of, moment
from cluster.cli_rules import rules_app
from cluster.client import ApiClient, open_http, path_segment
from cluster.command_error import CommandError, UsageError
from cluster.render_backtest import show_backtest
from cluster.replay_progress import SILENCE_S, followed
from cluster.terminal_text import shortened, text, utc, visible

_CHECK_S = 300.0
_LARGEST_RULES = 15 * 2**20
_PACKS = "/api/admin/rule-packs"
_DIGEST_CHARACTERS = 64

PackName = Annotated[str, typer.Option("--name", help="What tenants choose the pack by.")]


@rules_app.command("install")
def rules_install(
    path: Annotated[str, typer.Argument(metavar="PATH", help="An archive, folder or file of rules.")],
    *,
    name: PackName,
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="Of the archive, or what `trustsoc rules digest` says.")
    ] = None,
    data_dir: DataDir = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Installs a pack, or a newer version: tenants that follow it are judged by it from then on."""
    content = _archive(path)
    with keyring_of(data_dir, url).admin_client(_CHECK_S) as client:
        answer = client.upload(_PACKS, content, {"name": name, "sha256": sha256})
    render.show(answer, _installed, as_json)


@rules_app.command("packs")
def rules_packs(
    name: Annotated[str | None, typer.Argument(help="The versions of this pack, newest first.")] = None,
    *,
    data_dir: DataDir = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """The packs that are installed, each in its newest version; or all versions of one."""
    with keyring_of(data_dir, url).admin_client() as client:
        answer = client.listing(_PACKS) if name is None else {"items": _versions(client, name)}
    render.show_items(answer, _packs_table, as_json)


@rules_app.command("uninstall")
def rules_uninstall(
    name: Annotated[str, typer.Argument(help="The pack.")], data_dir: DataDir = None, url: Url = None
) -> None:
    """Removes a pack that no tenant has chosen."""
    with keyring_of(data_dir, url).admin_client() as client:
        client.delete(f"{_PACKS}/{path_segment(name)}")
    render.terminal().print(text(f"Pack {name} is removed."))


@rules_app.command("choice")
def rules_choice(data_dir: DataDir = None, url: Url = None, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """What a tenant is judged by: its packs, its overlay, and what they came to."""
    keyring = keyring_of(data_dir, url)
    with keyring.admin_client() as client:
        answer = client.get(f"/api/admin/tenants/{path_segment(keyring.tenant_name(tenant))}/rules")
    render.show(answer, _choice, as_json)


@rules_app.command("choose")
def rules_choose(
    packs: Annotated[
        list[str] | None,
        typer.Option("--pack", help="A pack, or NAME@DIGEST (or its beginning) for one version; repeat for several."),
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option("--overlay", exists=True, dir_okay=False, help="The overlay as a JSON file.")
    ] = None,
    *,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Gives a tenant other packs or another overlay; what no option names stays."""
    if packs is None and overlay is None:
        raise UsageError("name at least one --pack or an --overlay")
    keyring = keyring_of(data_dir, url)
    path = f"/api/admin/tenants/{path_segment(keyring.tenant_name(tenant))}/rules"
    with keyring.admin_client(_CHECK_S) as client:
        now = client.get(path)
        if not isinstance(now, dict) or "version" not in now:
            raise CommandError("the server did not answer with rules: is this Trust SOC?")
        kept = [{"name": pack["name"], "digest": pack["digest"]} for pack in now["packs"]]
        chosen = kept if packs is None else [_pack_choice(client, pack) for pack in packs]
        wanted = now["overlay"] if overlay is None else _json_file(overlay)
        answer = client.put(path, {"version": now["version"], "packs": chosen, "overlay": wanted})
    render.show(answer, _choice, as_json)


@rules_app.command("list")
def rules_list(  # noqa: PLR0913 - one parameter an option of the command
    *,
    search: Annotated[str | None, typer.Option("--text", help="In id, title or tags.")] = None,
    pack: Annotated[str | None, typer.Option("--pack", help="Of that pack.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="on, silent or off.")] = None,
    doubtful: Annotated[
        bool, typer.Option("--doubtful", help="Only those that may miss what they are for: `rules show` says why.")
    ] = False,
    limit: Limit = 100,
    cursor: Cursor = None,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """The rules that judge a tenant's records, and how often each hit in the last seven days."""
    wanted = {"text": search, "pack": pack, "state": state, "doubtful": doubtful or None, "cursor": cursor}
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        answer = client.page("/api/rules", wanted, limit)
    render.show_items(answer, _rules_table, as_json)


@rules_app.command("show")
def rules_show(
    rule_id: Annotated[str, typer.Argument(metavar="RULE-ID", help="From `trustsoc rules list`.")],
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """One rule with the file that it stands in."""
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        answer = client.get(f"/api/rules/{path_segment(rule_id)}")
    render.show(answer, _rule, as_json)


@rules_app.command("backtest")
def rules_backtest(
    paths: Annotated[list[str], typer.Argument(metavar="RULE...", help="Files, folders or archives of rules.")],
    *,
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="What was received since: 7d, 2026-03-01.")],
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="And before; until now.")] = None,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Judges the past again with these rules added or in place of their like, and shows what would differ."""
    rules = rule_files(paths)
    body = {"rules": rules, "since": moment(since, "--since"), "until": moment(until, "--until")}
    keyring = keyring_of(data_dir, url)
    with open_http(keyring.base_url, keyring.tenant_key(tenant), SILENCE_S, tenant) as http:
        result = followed(http, keyring.base_url, "/api/rules/backtest", body, name="backtest", quiet=as_json)
    if as_json:
        render.print_json(result)
    else:
        show_backtest(render.terminal(), result)


def _archive(path: str) -> bytes:
    """What the server is sent: an archive as it is, everything else packed here, tests and all, for the pin's sake."""
    from detect.sigma.archive import is_archive
    from detect.sigma.pack import pack_bytes
    from hunt.rule_files import UnusableRules, rule_content

    found = Path(path)
    try:
        if found.is_file() and is_archive(archive := found.read_bytes()):
            return archive
        content = rule_content(path)
    except (OSError, UnusableRules) as error:
        raise UsageError(f"cannot read the rules: {error}") from error
    if content.problems:
        raise UsageError("; ".join(map(str, content.problems[:5])))
    return pack_bytes(content.sources)


def rule_files(paths: list[str]) -> list[dict[str, str]]:
    """The rules of files, folders and archives as requests state them. Raises UsageError."""
    from hunt.rule_files import UnusableRules, read_rule_files

    try:
        files = read_rule_files(paths)
    except UnusableRules as error:
        raise UsageError(str(error)) from error
    if files.problems:
        raise UsageError("; ".join(map(str, files.problems[:5])))
    if not files.sources:
        raise UsageError(f"no rule files in {', '.join(paths)}: they end in .yml or .yaml")
    if sum(len(source) for _, source in files.sources) > _LARGEST_RULES:
        raise UsageError(f"the rules are larger than {_LARGEST_RULES} bytes: give those that matter")
    return [{"name": name, "text": source} for name, source in files.sources]


def _pack_choice(client: ApiClient, stated: str) -> dict[str, str | None]:
    name, _, beginning = stated.partition("@")
    if len(beginning) in (0, _DIGEST_CHARACTERS):
        return {"name": name, "digest": beginning or None}
    found = {version["digest"] for version in _versions(client, name) if version["digest"].startswith(beginning)}
    if len(found) != 1:
        raise UsageError(f"{len(found)} versions of {name} begin with {beginning}: see `trustsoc rules packs {name}`")
    return {"name": name, "digest": found.pop()}


def _versions(client: ApiClient, name: str) -> list[dict[str, Any]]:
    answer = client.get(f"{_PACKS}/{path_segment(name)}")
    if not isinstance(answer, dict) or not isinstance(answer.get("versions"), list):
        raise CommandError("the server did not answer with a pack: is this Trust SOC?")
    return list(answer["versions"])


def _json_file(path: Path) -> Any:
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise UsageError(f"{path} is no JSON: {error}") from error


def _problems(answer: dict[str, Any]) -> Text:
    lines = Text()
    for problem in answer.get("problems") or []:
        place = f"{problem['path']}:{problem['line'] or 1}: "
        lines.append(f"\n{visible(place)}", "bold").append(visible(problem["reason"]))
    return lines


def _installed(pack: dict[str, Any]) -> RenderableType:
    done = "is installed" if pack["new"] else "was installed already"
    counts = f"{pack['rules']:,} rules, {pack['correlations']:,} correlations, {pack['filters']:,} filters"
    return text(f"Pack {pack['name']} {done}: {counts}, {pack['broken']:,} not usable.").append_text(_problems(pack))


def _packs_table(packs: Sequence[dict[str, Any]]) -> RenderableType:
    table = render.plain_table("pack", "digest", "rules", "correlations", "not usable", "installed (UTC)", "by")
    for pack in packs:
        numbers = [text(f"{pack[name]:,}") for name in ("rules", "correlations", "broken")]
        when = utc(pack["installed_at"])
        table.add_row(text(pack["name"]), text(pack["digest"][:12]), *numbers, when, text(pack["installed_by"]))
    return table


def _choice(choice: dict[str, Any]) -> RenderableType:
    packs = ", ".join(
        f"{pack['name']}@{pack['digest'][:12]}" if pack["digest"] else pack["name"] for pack in choice["packs"]
    )
    counts = ", ".join(f"{count:,} {state}" for state, count in choice["counts"].items())
    shown = text(f"Tenant {choice['tenant']}, version {choice['version']}: {packs}\nRules: {counts}")
    entries = {name: len(choice["overlay"].get(name) or {}) for name in ("rules", "filters", "lists")}
    shown.append("\nOverlay: " + ", ".join(f"{count:,} {name}" for name, count in entries.items()))
    if choice["refused"]:
        shown.append(f"\nNot put in force: {visible(choice['refused'])}", "bold red")
    if choice["unknown_rules"]:
        shown.append(
            f"\nThe overlay names rules that no pack has: {visible(', '.join(choice['unknown_rules']))}", "yellow"
        )
    return shown.append_text(_problems(choice))


def _rules_table(rules: Sequence[dict[str, Any]]) -> RenderableType:
    table = render.plain_table("rule", "level", "state", "hits", "last hit (UTC)", "pack", "title")
    for rule in rules:
        table.add_row(
            text(shortened(rule["id"], 36)),
            render.severity(rule["level"]),
            text(rule["state"]),
            text(f"{rule['hits']:,}"),
            utc(rule["last_hit"]) if rule["last_hit"] else text("never", "dim"),
            text(rule["pack"]),
            text(shortened(rule["title"], 60)),
        )
    return table


def _rule(rule: dict[str, Any]) -> RenderableType:
    head = text(f"{rule['title']}\n{rule['pack']}/{rule['path']}: {rule['state']}, {rule['level']}", "bold")
    hits = f"\n{rule['hits']:,} hits, last {rule['last_hit'] or 'never'}"
    return head.append(hits, "dim").append_text(_problems(rule)).append(f"\n\n{visible(rule['source'])}")
