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
from detect.normalize import default_normalizer
from detect.otlp import decode
from detect.record import LogRecord, NormalizedRecord, TenantId
from serve.auth import Authenticator
from serve.ingest.foreign_doors import add_foreign_doors
from serve.ingest.intake import Intake
from serve.ingest.otlp_http import IngestLimits
from serve.ingest.syslog_connection import SyslogLimits, SyslogParts
from serve.settings import Settings
from store.journal import Appended, IdempotencyConflict, JournalEntry, JournalRow
from store.tenants import KeyRefused, Principal, Scope

TENANT = TenantId(UUID("11111111-1111-4111-8111-111111111111"))
RECEIVED_NS = 1_765_400_000 * 10**9  # 2025-12-10
NORMALIZER = default_normalizer()
_SCOPES: dict[str, Scope] = {"good": "ingest", "reader": "read"}


class MemoryJournal:
    """Keeps the promises of the journal for one process. `trouble` is raised until it is taken away.

    `refusals` counts the attempts that met trouble; `changed` is set at every attempt.
    """

    def __init__(self) -> None:
        self.rows: list[JournalEntry] = []
        self.trouble: Exception | None = None
        self.answer_lost: Exception | None = None
        self.refusals = 0
        self.changed = asyncio.Event()

    async def append(self, entry: JournalEntry) -> Appended:
        self.changed.set()
        if self.trouble is not None:
            self.refusals += 1
            raise self.trouble
        appended = self._append(entry)
        if self.answer_lost is not None:
            lost, self.answer_lost = self.answer_lost, None
            raise lost
        return appended

    def _append(self, entry: JournalEntry) -> Appended:
        for seq, row in enumerate(self.rows, start=1):
            if (row.tenant, row.agent, row.idempotency_key) == (entry.tenant, entry.agent, entry.idempotency_key):
                if row.digest != entry.digest:
                    raise IdempotencyConflict("another body")
                return Appended(seq, duplicate=True)
        self.rows.append(entry)
        return Appended(len(self.rows), duplicate=False)

    def records(self) -> list[LogRecord]:
        """What detectors read from all batches, in order."""
        return [record for seq, entry in enumerate(self.rows, start=1) for record in decode(_row(seq, entry).batch())]

    def normalized(self) -> list[NormalizedRecord]:
        return [NORMALIZER.normalize(record) for record in self.records()]

    def bodies(self) -> list[Any]:
        return [record.body for record in self.records()]


def _row(seq: int, entry: JournalEntry) -> JournalRow:
    return JournalRow(
        seq=seq,
        received=entry.received,
        agent=entry.agent,
        idempotency_key=entry.idempotency_key,
        digest=entry.digest,
        kind=entry.kind,
        encoding=entry.encoding,
        records=entry.records,
        payload=entry.payload,
    )


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
