"""The doors as the edge opens them, over a journal in memory: what the wire suite talks to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from fastapi import FastAPI

from actors.metrics import Metrics
from detect.batch import Batch
from detect.inflate import inflate
from detect.otlp import decode
from detect.record import LogRecord, TenantId
from serve.auth import Authenticator
from serve.edge import answer_errors
from serve.errors import WireError
from serve.ingest.doors import DoorParts, add_http_doors
from serve.ingest.fast_path import FastPath
from serve.ingest.intake import Intake
from serve.ingest.otlp_grpc import OtlpGrpcDoor, serving_grpc
from serve.ingest.senders import KeyCheck
from serve.settings import Settings
from store.tenants import KeyRefused, Principal
from tests.contract.memory_journal import MemoryJournal

TENANT = TenantId(UUID("11111111-1111-4111-8111-111111111111"))
SENT_LIMIT = 200_000
INFLATED_LIMIT = 1_500_000
RECEIVED_NS = 1_800_000_000 * 10**9


@dataclass(frozen=True, slots=True)
class Edge:
    """One edge: its HTTP application, its gRPC address, and what lies behind both."""

    application: FastAPI
    grpc_address: str
    journal: MemoryJournal
    metrics: Metrics

    def stored(self) -> list[LogRecord]:
        """The records of the one batch in the journal, decoded as a detector decodes them."""
        [row] = self.journal.rows
        payload = inflate(row.payload, row.encoding, INFLATED_LIMIT)
        return decode(Batch(1, RECEIVED_NS, row.kind, payload))

    def refusals(self, reason: str) -> int:
        """How many requests were counted as refused for the reason."""
        for line in self.metrics.render().decode().splitlines():
            if line.startswith("trustsoc_ingest_rejected_requests_total") and f'reason="{reason}"' in line:
                return int(float(line.rpartition(" ")[2]))
        return 0


@asynccontextmanager
async def running_edge() -> AsyncIterator[Edge]:
    """Both kinds of doors over one journal, with small limits."""
    journal, metrics = MemoryJournal(), Metrics()
    settings = Settings(max_compressed_bytes=SENT_LIMIT, max_body_bytes=INFLATED_LIMIT)
    authenticator = Authenticator(_check, _name_of, lambda: 100.0, 5.0)
    unsigned: Any = KeyCheck(authenticator)  # the signed door has a suite of its own
    parts = DoorParts(settings, authenticator, Intake(journal, _no_hint, metrics), metrics, envelopes=unsigned)
    application = FastAPI()
    answer_errors(application)
    application.add_middleware(FastPath)
    add_http_doors(application, parts)
    door = OtlpGrpcDoor(KeyCheck(parts.authenticator), parts.intake, metrics, parts.limits)
    async with serving_grpc(door, "127.0.0.1:0", parts.limits) as port:
        yield Edge(application, f"127.0.0.1:{port}", journal, metrics)


def _no_hint(_: TenantId) -> None:
    """Nobody detects anything here."""


async def _check(key: str) -> Principal | None:
    match key:
        case "good":
            return Principal(TENANT, "agent-1", frozenset({"ingest"}), admin=False)
        case "reader":
            return Principal(TENANT, "agent-2", frozenset({"read"}), admin=False)
        case "revoked":
            raise KeyRefused("revoked", "agent-3")
        case "hurried":
            raise WireError(429, "this key sends more than it may: slow down", retry_after_s=7)
        case "unlucky":
            raise ZeroDivisionError("a defect of ours")
        case _:
            return None


async def _name_of(_: TenantId) -> str:
    return "acme"
