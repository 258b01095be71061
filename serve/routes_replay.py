"""POST /api/replay: a fork of the tenant at a past seq, and how what it says differs from what is stored.

The answer is newline-delimited JSON: a line `start`, lines `progress`, and one line `result` or `error`. Who closes
the connection hears no more; the replay keeps its place until it has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import ConfigDict, Field

from actors.replay import Line, ReplayRequest
from serve.auth import Authenticator
from serve.ingest.body import parsed, read_body
from serve.openapi import refusals
from serve.replay_stream import ReplayStreams
from serve.schemas import Model

_LARGEST_BODY = 16 * 2**20
_REFUSALS = {
    409: "A replay of this tenant is under way, or what it needs has been pruned.",
    422: "The range or the rules cannot be used; the detail says why.",
    429: "Too many replays are under way; Retry-After says when to come back.",
}

StartReplay = Callable[[ReplayRequest], AsyncGenerator[Line, None]]


class RuleFile(Model):
    """A Sigma rule file (one or more YAML documents)."""

    name: str = Field(max_length=500)
    text: str = Field(max_length=2**20)


class ReplayModel(Model):
    """Which batches, and by which rules instead of those that were in force."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"from": 1, "to": 500}]})

    first: Annotated[int, Field(alias="from", ge=1, lt=2**63)]
    last: Annotated[int | None, Field(alias="to", ge=1, lt=2**63)] = None
    rules: list[RuleFile] | None = Field(default=None, max_length=5000)


def replay_routes(
    authenticator: Authenticator, streams: ReplayStreams, start: StartReplay, max_batches: int
) -> APIRouter:
    """Replays, for a tenant's key with the scope read: nothing is changed."""
    router = APIRouter(prefix="/api", tags=["detection"])

    @router.post(
        "/replay",
        responses=refusals(_REFUSALS) | {200: {"content": {"application/x-ndjson": {}}}},
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _schema()}}}},
    )
    async def replay(request: Request) -> StreamingResponse:
        """Judges past batches again with the production code, in memory, and compares with the stored events."""
        tenant, _ = await authenticator.tenant_principal(request.headers, "read")
        body = await read_body(request.stream(), _LARGEST_BODY)
        asked = await asyncio.to_thread(parsed, ReplayModel, body)
        rules = None if asked.rules is None else tuple((file.name, file.text) for file in asked.rules)
        wanted = ReplayRequest(tenant, asked.first, asked.last, rules, max_batches)
        return await streams.answer(lambda: start(wanted))

    return router


def _schema() -> dict[str, Any]:
    """The schema of the body, which is read here within a limit and not by the framework, in one piece."""
    schema = ReplayModel.model_json_schema()
    file = schema.pop("$defs")["RuleFile"]
    rules = schema["properties"]["rules"]["anyOf"]
    schema["properties"]["rules"]["anyOf"] = [{**kind, "items": file} if "items" in kind else kind for kind in rules]
    return schema
