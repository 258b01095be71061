"""Every door for log records, opened in one place: what each needs, and the routes of those that speak HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import FastAPI, Request, Response

from actors.metrics import Metrics
from serve.auth import Authenticator
from serve.errors import WireAnswer
from serve.ingest.envelope import INGEST_PATH, EnvelopeCheck
from serve.ingest.fast_path import open_door
from serve.ingest.foreign_doors import add_foreign_doors, open_syslog
from serve.ingest.intake import Intake
from serve.ingest.otlp_grpc import OtlpGrpcDoor, grpc_address, serving_grpc
from serve.ingest.otlp_http import IngestLimits, OtlpHttpDoor
from serve.ingest.senders import KeyCheck
from serve.ingest.signed_http import SignedHttpDoor
from serve.settings import Settings


@dataclass(frozen=True, slots=True)
class DoorParts:
    """What doors are made of."""

    settings: Settings
    authenticator: Authenticator
    intake: Intake
    metrics: Metrics
    envelopes: EnvelopeCheck

    @property
    def limits(self) -> IngestLimits:
        """The size limits of every body."""
        return IngestLimits(self.settings.max_compressed_bytes, self.settings.max_body_bytes)


def add_http_doors(application: FastAPI, parts: DoorParts) -> None:
    """The routes that take log records over HTTP."""
    otlp = OtlpHttpDoor(KeyCheck(parts.authenticator), parts.intake, parts.metrics, parts.limits)

    @application.api_route(
        "/v1/logs", methods=["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"], include_in_schema=False
    )
    async def wrong_method(request: Request) -> Response:
        return wire_response(otlp.wrong_method(request.headers))

    @application.post("/v1/traces", include_in_schema=False)
    @application.post("/v1/metrics", include_in_schema=False)
    async def other_signal(request: Request) -> Response:
        return wire_response(otlp.other_signal(request.headers))

    checked = OtlpHttpDoor(parts.envelopes, parts.intake, parts.metrics, parts.limits, "signed")
    signed = SignedHttpDoor(checked, lambda: datetime.now(UTC))

    add_foreign_doors(application, parts)
    open_door(application, INGEST_PATH, signed.handle)
    open_door(application, "/v1/logs", otlp.handle)


@asynccontextmanager
async def other_doors(parts: DoorParts) -> AsyncIterator[None]:
    """The doors with ports of their own, open while the block runs; they close gently at its end."""
    settings = parts.settings
    async with AsyncExitStack() as stack:
        if settings.syslog_listeners:
            await stack.enter_async_context(open_syslog(parts))
        if settings.grpc_port:
            door = OtlpGrpcDoor(KeyCheck(parts.authenticator), parts.intake, parts.metrics, parts.limits)
            address = grpc_address(settings.http_host, settings.grpc_port)
            await stack.enter_async_context(serving_grpc(door, address, parts.limits))
        yield


def wire_response(answer: WireAnswer) -> Response:
    """A door's answer as Starlette sends it."""
    return Response(answer.body, answer.status, headers=answer.headers, media_type=answer.content_type)
