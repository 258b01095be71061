"""The doors for senders that do not speak OTLP: their routes, and the syslog listeners."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

from fastapi import FastAPI, Request, Response

from actors.metrics import Metrics
from serve.auth import Authenticator
from serve.errors import WireAnswer
from serve.ingest.bulk import BulkDoor
from serve.ingest.fast_path import open_door
from serve.ingest.intake import Intake
from serve.ingest.ndjson import NdjsonDoor
from serve.ingest.otlp_http import IngestLimits
from serve.ingest.reception import Reception
from serve.ingest.senders import KeyCheck
from serve.ingest.syslog import serving_syslog
from serve.ingest.syslog_connection import SyslogLimits, SyslogParts
from serve.settings import Settings

_ANY_METHOD: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class ForeignDoorParts(Protocol):
    """What these doors need of serve.ingest.doors.DoorParts."""

    @property
    def settings(self) -> Settings: ...
    @property
    def authenticator(self) -> Authenticator: ...
    @property
    def intake(self) -> Intake: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def limits(self) -> IngestLimits: ...


def add_foreign_doors(application: FastAPI, parts: ForeignDoorParts) -> None:
    """The routes of NDJSON and of Elasticsearch's `_bulk` with what its senders ask before they send."""
    reception = Reception(KeyCheck(parts.authenticator), parts.limits)
    ndjson = NdjsonDoor(reception, parts.intake, parts.metrics, time.time_ns)
    bulk = BulkDoor(reception, parts.intake, parts.metrics, parts.settings.elasticsearch_version)

    async def documents(request: Request, index: str = "") -> Response:
        answer = await bulk.handle(
            request.headers,
            request.stream(),
            index=index,
            filter_path=request.query_params.get("filter_path", ""),
        )
        return _response(request, answer)

    @application.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def about(request: Request) -> Response:
        return _response(request, await bulk.probe(request.headers, ""))

    @application.api_route("/_{path:path}", methods=_ANY_METHOD, include_in_schema=False)
    async def underscore(request: Request, path: str) -> Response:
        if path == "bulk" and request.method in {"POST", "PUT"}:
            return await documents(request)
        if request.method == "GET":
            return _response(request, await bulk.probe(request.headers, f"_{path}"))
        return _response(request, bulk.unknown())

    @application.api_route("/{index}/_bulk", methods=["POST", "PUT"], include_in_schema=False)
    async def documents_of_an_index(request: Request, index: str) -> Response:
        return await documents(request, index)

    open_door(application, "/ingest/ndjson", ndjson.handle)


@asynccontextmanager
async def open_syslog(parts: ForeignDoorParts) -> AsyncIterator[None]:
    """The syslog listeners of the settings, while the block runs."""
    syslog = SyslogParts(parts.intake, parts.metrics, SyslogLimits(), time.time_ns, asyncio.Event())
    async with serving_syslog(parts.settings.syslog_listeners, parts.authenticator, syslog):
        yield


def _response(request: Request, answer: WireAnswer) -> Response:
    body = b"" if request.method == "HEAD" else answer.body
    return Response(body, answer.status, headers=answer.headers, media_type=answer.content_type)
