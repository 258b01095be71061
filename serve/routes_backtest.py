"""POST /api/rules/backtest: what rules would have said about the past, before anybody enables them.

The answer is newline-delimited JSON: a line `start`, lines `progress`, and one line `result` or `error`. Who closes
the connection hears no more; the backtest keeps its place until it has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, ConfigDict, Field

from actors.backtest import BacktestRequest
from actors.replay import Line
from actors.rule_masking import RecordMasks
from detect.record import TenantId
from serve.auth import Authenticator
from serve.ingest.body import parsed, read_body
from serve.openapi import refusals
from serve.replay_stream import ReplayStreams
from serve.routes_replay import RuleFile
from serve.schemas import Model

_LARGEST_BODY = 16 * 2**20
_REFUSALS = {
    409: "A replay of this tenant is under way, or what it needs has been pruned.",
    422: "The time or the rules cannot be used; the detail names file, line and reason.",
    429: "Too many replays are under way; Retry-After says when to come back.",
}

StartBacktest = Callable[[BacktestRequest], AsyncGenerator[Line, None]]
MasksOfTenant = Callable[[TenantId], Awaitable[RecordMasks | None]]


class BacktestModel(Model):
    """Which rules, in place of those with the same ids, on what was received in [since, until)."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"rules": [{"name": "my.yml", "text": "title: ..."}], "since": "2026-03-01T00:00:00Z"}]
        },
    )

    rules: Annotated[list[RuleFile], Field(min_length=1, max_length=5000)]
    since: AwareDatetime
    until: AwareDatetime | None = None


def backtest_routes(
    authenticator: Authenticator,
    streams: ReplayStreams,
    start: StartBacktest,
    max_batches: int,
    masks_of: MasksOfTenant,
    rule_cache: str = "",
) -> APIRouter:
    """Backtests, for a tenant's key with the scope read: nothing is changed. Without a masking key `masks_of` raises
    WireError."""
    router = APIRouter(prefix="/api/rules", tags=["rules"])

    @router.post(
        "/backtest",
        responses=refusals(_REFUSALS) | {200: {"content": {"application/x-ndjson": {}}}},
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _schema()}}}},
    )
    async def backtest(request: Request) -> StreamingResponse:
        """Judges the past again with these rules on top, in memory; says per rule and day what is new or lost."""
        tenant, _ = await authenticator.tenant_principal(request.headers, "read")
        body = await read_body(request.stream(), _LARGEST_BODY)
        asked = await asyncio.to_thread(parsed, BacktestModel, body)
        rules = tuple((file.name, file.text) for file in asked.rules)
        masks = await masks_of(tenant)
        wanted = BacktestRequest(
            tenant, rules, asked.since, asked.until, max_batches, rule_cache=rule_cache, masks=masks
        )
        return await streams.answer(lambda: start(wanted))

    return router


def _schema() -> dict[str, Any]:
    """The schema of the body, which is read here within a limit and not by the framework, in one piece."""
    schema = BacktestModel.model_json_schema()
    schema["properties"]["rules"]["items"] = schema.pop("$defs")["RuleFile"]
    return schema
