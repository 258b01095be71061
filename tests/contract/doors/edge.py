"""The doors beside OTLP over a journal in memory: the real application, authenticator and intake around it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from fastapi import FastAPI

from actors.metrics import Metrics
from detect.record import TenantId
from serve.auth import Authenticator
from serve.ingest.foreign_doors import add_foreign_doors
from serve.ingest.intake import Intake
from serve.ingest.otlp_http import IngestLimits
from serve.ingest.syslog_connection import SyslogLimits, SyslogParts
from serve.settings import Settings
from store.tenants import KeyRefused, Principal, Scope
from tests.contract.memory_journal import MemoryJournal

TENANT = TenantId(UUID("11111111-1111-4111-8111-111111111111"))
RECEIVED_NS = 1_765_400_000 * 10**9  # 2025-12-10
_SCOPES: dict[str, Scope] = {"good": "ingest", "reader": "read"}


@dataclass(frozen=True, slots=True)
class Parts:
    """What the doors need of the edge."""

    settings: Settings
    authenticator: Authenticator
    intake: Intake
    metrics: Metrics
    limits: IngestLimits


class DoorsEdge:
    """An edge with the doors beside OTLP, and a client of it."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.metrics = Metrics()
        self.hints: list[TenantId] = []
        self.keys = dict(_SCOPES)
        self.authenticator = Authenticator(self._check, self._name_of, lambda: 0.0, keep_s=0.0)
        self.intake = Intake(self.journal, self.hints.append, self.metrics)
        application = FastAPI()
        limits = IngestLimits(compressed=200_000, decompressed=2_000_000)
        add_foreign_doors(application, Parts(Settings(), self.authenticator, self.intake, self.metrics, limits))
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(application), base_url="http://edge", headers={"Authorization": "Bearer good"}
        )

    async def _check(self, key: str) -> Principal | None:
        if key == "revoked":
            raise KeyRefused("revoked", "agent-3")
        if key == "admin":
            return Principal(None, "boss", frozenset(), admin=True)
        scope = self.keys.get(key)
        return None if scope is None else Principal(TENANT, f"key-{key}", frozenset({scope}), admin=False)

    async def _name_of(self, tenant: TenantId) -> str:
        assert tenant == TENANT
        return "acme"

    def syslog_parts(self, **limits: Any) -> SyslogParts:
        quick = {
            "first_retry_s": 0.01,
            "longest_retry_s": 0.02,
            "stop_s": 0.2,
            "batch_s": 0.02,
            "look_again_s": 0.02,
        } | limits
        return SyslogParts(self.intake, self.metrics, SyslogLimits(**quick), lambda: RECEIVED_NS, asyncio.Event())

    async def post(self, path: str, body: bytes | str, **headers: str) -> httpx.Response:
        sent: Mapping[str, str] = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, content=body, headers=sent)

    def counted(self, name: str, **labels: str) -> float:
        """The value of a metric; 0 while it was never touched."""
        return self.metrics.registry.get_sample_value(f"trustsoc_{name}", labels) or 0.0
