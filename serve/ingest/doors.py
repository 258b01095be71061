"""Every door for log records, opened in one place: what each needs, and the routes of those that speak HTTP."""

from __future__ import annotations

import time
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response

from actors.metrics import Metrics
from serve.auth import Authenticator
from serve.errors import WireAnswer
from serve.ingest.intake import Intake
from serve.ingest.otlp_http import IngestLimits, OtlpHttpDoor
from serve.settings import Settings


@dataclass(frozen=True, slots=True)
class DoorParts:
    """What doors are made of."""

    settings: Settings
    authenticator: Authenticator
    intake: Intake
    metrics: Metrics

    @property
    def limits(self) -> IngestLimits:
        """The size limits of every body."""
        return IngestLimits(self.settings.max_compressed_bytes, self.settings.max_body_bytes)


def add_http_doors(application: FastAPI, parts: DoorParts) -> None:
    """The routes that take log records over HTTP."""
    otlp = OtlpHttpDoor(parts.authenticator, parts.intake, parts.metrics, parts.limits)

    @application.post("/v1/logs", include_in_schema=False)
    async def export_logs(request: Request) -> Response:
        return wire_response(await otlp.handle(request.headers, request.stream(), time.monotonic))


def wire_response(answer: WireAnswer) -> Response:
    """A door's answer as Starlette sends it."""
    return Response(answer.body, answer.status, headers=answer.headers, media_type=answer.content_type)
