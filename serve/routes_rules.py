"""The API of rules: packs and tenants' choices under /api/admin, a tenant's own rules under /api/rules."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import ConfigDict, Field

from actors.rule_check import RuleState
from serve.ingest.body import parsed, read_body
from serve.openapi import refusals
from serve.rule_listing import RuleFilter, RuleListing
from serve.rule_services import RulePackServices, TenantRuleServices, archive_of_files
from serve.schemas import Model, Severity
from store.rule_choices import PackChoice

_LARGEST_PACK = 64 * 2**20
_PACK_REFUSALS = {
    404: "There is no such pack.",
    409: "Tenants use the pack, or new ones begin with it.",
    413: "The pack is larger than 64 MiB.",
    422: "Nothing of the pack can be used, or it is not what was pinned; the detail names file, line and reason.",
}
_CHOICE_REFUSALS = {
    404: "There is no such tenant.",
    409: "Somebody changed the rules since `version`.",
    413: "Packs and overlay are larger than 8 MiB.",
    422: "A pack is not installed, or overlay or rules cannot be used; those in force go on.",
}
_RULE_REFUSALS = {404: "There is no such rule.", 422: "The cursor is not of this list."}

PackName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="What tenants choose it by.")]
PackDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of a pack's sources.")]
Days = Annotated[int, Query(ge=1, le=366, description="Hits are counted over so many days, by event time.")]


class ProblemModel(Model):
    """A document that is not in force, or a doubt about one that is."""

    path: str
    line: int | None
    rule_id: str | None
    reason: str


class PackModel(Model):
    """A version of a pack. `origin` is the SHA-256 of what was uploaded, `broken` counts what does not load."""

    name: str
    digest: str
    origin: str
    rules: int
    correlations: int
    filters: int
    broken: int
    installed_by: str
    installed_at: str


class InstalledPackModel(PackModel):
    """`new`: false when the newest version was this one already."""

    new: bool
    problems: list[ProblemModel]


class PackDetail(PackModel):
    """The newest version, what of it does not load (the first 200), and all versions, newest first."""

    problems: list[ProblemModel]
    versions: list[PackModel]


class PackFile(Model):
    """A rule file: one or more YAML documents."""

    name: str = Field(min_length=1, max_length=500)
    text: str = Field(max_length=2**20)


class PackFiles(Model):
    """A pack as single files, instead of an archive."""

    files: list[PackFile] = Field(min_length=1, max_length=5000)


class PackChoiceModel(Model):
    """A pack by name: with a digest that version, else the newest, always."""

    name: PackName
    digest: PackDigest | None = None


class ChoiceModel(Model):
    """What a tenant is to be judged by. `version` is the one that was read: a change in between is a conflict.

    The overlay has `selection` {least_level, statuses}, `rules` {id: {enabled, level, status, silent, fold, owner,
    reason, expires}}, `filters` {name: {text, owner, reason, expires}}, `lists` {name: {values, owner, reason,
    expires}} and `fold` {seconds, by}, how floods of rules are folded whose entry says nothing of it.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "version": 1,
                    "packs": [{"name": "starter"}, {"name": "sigmahq"}],
                    "overlay": {
                        "selection": {"least_level": "medium"},
                        "rules": {"5a3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0c01": {"level": "low", "owner": "j.doe"}},
                    },
                }
            ]
        },
    )

    version: int = Field(ge=1)
    packs: list[PackChoiceModel] = Field(min_length=1, max_length=50)
    overlay: dict[str, Any] = Field(default_factory=dict)


class UsedPackModel(PackChoiceModel):
    """`used` is the version that the rule set was made of."""

    used: str | None


class TenantRulesModel(Model):
    """`rule_set` is the digest that the journal's control row names; `in_force`: that row is written.

    `refused` says why a newer rule set was not put in force. `unknown_rules`: entries of rules that no pack has.
    """

    tenant: str
    version: int
    packs: list[UsedPackModel]
    overlay: dict[str, Any]
    rule_set: str | None
    in_force: bool
    next_expiry: str | None
    refused: str | None
    changed_by: str
    changed_at: str
    counts: dict[str, int]
    problems: list[ProblemModel]
    unknown_rules: list[str]


class RuleModel(Model):
    """A rule. `state`: on; silent (it feeds correlations and never alerts); off (by the overlay).

    `doubts`: what may keep it from finding what it is for, such as a name that masked records never hold.
    """

    id: str
    title: str
    kind: str
    level: str
    status: str
    state: RuleState
    enabled: bool
    pack: str
    path: str
    version: str
    techniques: list[str]
    doubts: list[str]
    hits: int
    last_hit: str | None


class RulePage(Model):
    """In the order of ids, of the rule set of that digest."""

    items: list[RuleModel]
    next_cursor: str | None
    rule_set: str | None


class RuleDetail(RuleModel):
    """With the file that it stands in, doubts about it, the overlay's entry, and the filters that apply to it."""

    source: str
    problems: list[ProblemModel]
    overlay: dict[str, Any] | None
    filters: list[str]


def rule_pack_routes(services: RulePackServices) -> APIRouter:
    """Packs of the installation, for an administrator's key."""
    router = APIRouter(
        prefix="/api/admin/rule-packs", tags=["rules"], responses=refusals(_PACK_REFUSALS, administrators=True)
    )

    @router.get("")
    async def packs(request: Request) -> dict[str, list[PackModel]]:
        """The newest version of every pack."""
        return {"items": [PackModel(**pack) for pack in await services.packs(request.headers)]}

    @router.post("", status_code=201, openapi_extra={"requestBody": _upload()})
    async def install(
        request: Request,
        name: Annotated[PackName, Query()],
        sha256: Annotated[str | None, Query(pattern="^[0-9a-fA-F]{64}$", description="Of the body.")] = None,
    ) -> InstalledPackModel:
        """Installs a version of a pack: an archive (tar, tar.gz, zip), or files as JSON. Followers get it by itself."""
        await services.admit(request.headers)
        body = await read_body(request.stream(), _LARGEST_PACK)
        if request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
            body = await asyncio.to_thread(_archive_of, body)
        return InstalledPackModel(**await services.install(request.headers, name, sha256, body))

    @router.get("/{name}")
    async def pack(request: Request, name: str) -> PackDetail:
        """One pack."""
        return PackDetail(**await services.show(request.headers, name))

    @router.delete("/{name}", status_code=204)
    async def remove(request: Request, name: str) -> Response:
        """Removes a pack that no tenant has chosen."""
        await services.remove(request.headers, name)
        return Response(status_code=204)

    return router


def tenant_rule_routes(services: TenantRuleServices) -> APIRouter:
    """What a tenant is judged by, for an administrator's key."""
    router = APIRouter(
        prefix="/api/admin/tenants/{name}/rules",
        tags=["rules"],
        responses=refusals(_CHOICE_REFUSALS, administrators=True),
    )

    @router.get("")
    async def choice(request: Request, name: str) -> TenantRulesModel:
        """The tenant's packs and overlay, and what they came to."""
        return TenantRulesModel(**await services.show(request.headers, name))

    @router.put("")
    async def choose(request: Request, name: str, wanted: ChoiceModel) -> TenantRulesModel:
        """Replaces packs and overlay: checked first, then in force from a recorded seq on. State is kept."""
        packs = [PackChoice(pack.name, pack.digest) for pack in wanted.packs]
        return TenantRulesModel(**await services.choose(request.headers, name, wanted.version, packs, wanted.overlay))

    return router


def rule_routes(listing: RuleListing) -> APIRouter:
    """A tenant's rules, for its key with the scope read."""
    router = APIRouter(prefix="/api/rules", tags=["rules"], responses=refusals(_RULE_REFUSALS))

    @router.get("")
    async def rules(  # noqa: PLR0913 - one parameter an option of the query
        *,
        request: Request,
        text: Annotated[str | None, Query(max_length=200, description="In id, title or tags.")] = None,
        pack: Annotated[str | None, Query(max_length=100)] = None,
        state: RuleState | None = None,
        level: Annotated[Severity, Query(description="From this level on.")] = "informational",
        doubtful: Annotated[bool, Query(description="Only rules with doubts.")] = False,
        days: Days = 7,
        limit: Annotated[int, Query(ge=1, le=500, description="Items a page.")] = 100,
        cursor: Annotated[str | None, Query(max_length=2000, description="`next_cursor` of the page before.")] = None,
    ) -> RulePage:
        """The rules that judge the tenant's records, with those that are off."""
        wanted = RuleFilter(text, pack, state, level, days, doubtful)
        return RulePage(**await listing.rules(request.headers, wanted, limit, cursor))

    @router.get("/{rule_id:path}")
    async def rule(request: Request, rule_id: Annotated[str, Path(max_length=2000)], days: Days = 7) -> RuleDetail:
        """One rule with its source."""
        return RuleDetail(**await listing.rule(request.headers, rule_id, days))

    return router


def _upload() -> dict[str, Any]:
    """The schema of the body, which is read here within a limit and not by the framework, in one piece."""
    schema = PackFiles.model_json_schema()
    schema["properties"]["files"]["items"] = schema.pop("$defs")["PackFile"]
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {"required": True, "content": {"application/octet-stream": binary, "application/json": {"schema": schema}}}


def _archive_of(body: bytes) -> bytes:
    return archive_of_files([(file.name, file.text) for file in parsed(PackFiles, body).files])
