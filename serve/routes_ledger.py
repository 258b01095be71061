"""Receipts and the loss ledger over HTTP: public keys, single batches, senders' statements, and the ledger itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from actors.janitor import Chore
from actors.metrics import Metrics
from detect.record import TenantId
from serve.auth import Authenticator
from serve.errors import WireError
from serve.ingest.balance import LEDGER_PATH, SenderBooks
from serve.ingest.body import read_body
from serve.ingest.envelope import EnvelopeCheck
from serve.ingest.intake import Sender
from serve.ingest.ledger import LedgerDesk, RejectionTally, Verdict
from serve.ingest.receipts import JWKS_PATH, ReceiptSigner, batch_id
from serve.openapi import refusals
from serve.schemas import Model
from serve.settings import Settings
from serve.stamped_route import StampedRoute
from store.journal import JournalWriter
from store.ledger import forget_runs, ledger_page, read_batch
from store.postgres import Pool, system_transaction, tenant_transaction
from store.tenants import list_tenants
from store.values import iso_time

_STATEMENT_BYTES = 64 * 1024
_REFUSALS = {
    400: "The body or the signed envelope cannot be read.",
    404: "The journal has no such batch, or has it no more.",
    409: "Counts went back while others went on, or a nonce was used before.",
    413: "The body is too large for a statement.",
    422: "A value is of the wrong form; `detail` says which.",
}
_GAPS_EVERY_S = 15.0
_FORGET_EVERY_S = 3600.0

Hint = Callable[[TenantId], None]
Count = Annotated[int, Field(ge=0, le=2**53)]
Reason = Annotated[str, StringConstraints(pattern=r"^[ -~]{1,64}$")]


class LedgerStatement(BaseModel):
    """A sender's cumulative books for one run, in records: accepted = stored + duplicate + rejected + in_flight."""

    model_config = ConfigDict(extra="forbid", strict=True)

    run: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="As in X-Agent-Run: the life of the spool.")
    accepted: Count = Field(description="Entered the spool.")
    stored: Count = Field(description="Answered as new.")
    duplicate: Count = Field(description="Answered with X-Batch-Duplicate: true.")
    rejected: dict[Reason, Count] = Field(default={}, max_length=64, description="Refused for ever, by reason.")
    in_flight: Count = Field(description="In the spool: not sent, or not answered.")
    elsewhere: Count | None = Field(default=None, description="Of duplicate: answered with X-Batch-Elsewhere: true.")
    unsettled: Count | None = Field(
        default=None, description="Of rejected: batches with an earlier attempt that was never answered."
    )
    seen_seq: Count = Field(default=0, description="Highest X-Batch-Seq or head seen before the books were written.")

    def books(self) -> SenderBooks:
        return SenderBooks(**self.model_dump(exclude={"run"}))


class RunBooksModel(Model):
    """What the journal knows of a run, in records unless the name says batches."""

    stored_batches: int
    stored: int
    duplicate_batches: int
    duplicate: int
    elsewhere: int


class LedgerVerdict(Model):
    """`taken`: false when a newer statement is known. `head`: state it as seen_seq the next time."""

    agent: str
    run: str
    taken: bool
    balanced: bool
    missing: int
    excess: int
    detail: str
    head: int
    server: RunBooksModel


class RejectionModel(Model):
    """Refusals of one kind; those that are retryable (429, 503) are repeated by the sender."""

    reason: str
    retryable: bool
    requests: int
    records: int


class ServerSide(Model):
    """What the server counted; rejections reach the ledger within about a second."""

    stored_batches: int
    stored_records: int
    duplicate_batches: int
    duplicate_records: int
    elsewhere_records: int
    rejections: list[RejectionModel]


class SenderSide(Model):
    """The newest statement and its verdict."""

    accepted: int
    stored: int
    duplicate: int
    rejected: dict[str, int]
    in_flight: int
    missing: int
    excess: int
    detail: str
    stated_at: str


class LedgerRow(Model):
    """One run of one agent. `statement` is null for senders that keep no books."""

    agent: str
    run: str
    server: ServerSide
    statement: SenderSide | None
    first_batch: str | None
    last_batch: str | None
    last_seen: str


class LedgerPage(Model):
    """By agent and run; `next_cursor` continues, null ends."""

    items: list[LedgerRow]
    next_cursor: str | None


class BatchModel(Model):
    """What the journal says of one batch; what its receipt must agree with."""

    tenant: str
    seq: int
    batch: str
    agent: str
    run: str
    received: str
    digest: str
    records: int
    kind: str
    encoding: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """Everything that receipts and the ledger need in one replica."""

    receipts: ReceiptSigner
    refusals: RejectionTally
    desk: LedgerDesk
    app_pool: Pool
    writer_pool: Pool
    retention: timedelta

    def chores(self) -> list[Chore]:
        """For the janitor: the gauges of what is missing, and the end of runs that were silent for long."""
        return [
            Chore("ledger_gaps", _GAPS_EVERY_S, self._show_gaps),
            Chore("ledger_past_retention", _FORGET_EVERY_S, self._forget),
        ]

    async def _show_gaps(self, _: datetime) -> int:
        await self.desk.show_gaps()
        return 0

    async def _forget(self, now: datetime) -> int:
        async with system_transaction(self.writer_pool) as transaction:
            known = await list_tenants(transaction)
        forgotten = 0
        for tenant in known:
            async with tenant_transaction(self.app_pool, tenant.id) as own:
                forgotten += await forget_runs(own, now - self.retention)
        return forgotten


@asynccontextmanager
async def open_ledger(
    settings: Settings, app_pool: Pool, writer_pool: Pool, journal: JournalWriter, hint: Hint, metrics: Metrics
) -> AsyncIterator[Ledger]:
    """Reads the receipt keys and keeps refusals while the block runs. Raises ReceiptKeyError without a key file."""
    receipts = ReceiptSigner.from_file(settings.receipt_keys)
    refusals = RejectionTally(app_pool, lambda: datetime.now(UTC))
    refusals.start()
    desk = LedgerDesk(app_pool, writer_pool, journal, hint, metrics)
    retention = timedelta(days=settings.ledger_retention_days)
    try:
        yield Ledger(receipts, refusals, desk, app_pool, writer_pool, retention)
    finally:
        await refusals.stop()


def ledger_routes(ledger: Ledger, authenticator: Authenticator, envelopes: EnvelopeCheck) -> APIRouter:
    """Statements need the scope `ingest`, reading needs `read`, public keys need nothing. Answers are stamped."""
    router = APIRouter(route_class=StampedRoute)

    @router.get(JWKS_PATH, tags=["receipts"])
    async def jwks(response: Response) -> dict[str, list[dict[str, str]]]:
        """The public keys of receipts (RFC 7517), those that sign no more included."""
        response.headers["Cache-Control"] = "public, max-age=300"
        return ledger.receipts.jwks()

    @router.get("/api/batches/{seq}", tags=["receipts"], responses=_problems(404, 422))
    async def batch(request: Request, seq: Annotated[int, Path(ge=1, le=2**63 - 1)]) -> BatchModel:
        """One batch as the journal holds it, without its body; 404 when it is past the replay horizon."""
        tenant, _ = await authenticator.tenant_principal(request.headers, "read")
        async with tenant_transaction(ledger.app_pool, TenantId(tenant)) as transaction:
            found = await read_batch(transaction, seq)
        if found is None:
            raise WireError(404, f"the journal has no batch {seq} (any more): rows past the replay horizon are pruned")
        return _batch_model(tenant, found)

    @router.get("/api/ledger", tags=["ledger"], responses=_problems(422))
    async def ledger_of(
        request: Request,
        agent: Annotated[str | None, Query(max_length=256, description="Of this agent only.")] = None,
        limit: Annotated[int, Query(ge=1, le=500, description="Items a page.")] = 100,
        cursor: Annotated[str | None, Query(max_length=1024, description="`next_cursor` of the page before.")] = None,
    ) -> LedgerPage:
        """What was stored, repeated and refused of each agent's runs, and what the agents say of it."""
        tenant, _ = await authenticator.tenant_principal(request.headers, "read")
        async with tenant_transaction(ledger.app_pool, TenantId(tenant)) as transaction:
            page = await ledger_page(transaction, agent, limit, cursor)
        return LedgerPage.model_validate(asdict(page))

    @router.post(
        LEDGER_PATH,
        tags=["ledger"],
        openapi_extra=_body_of(LedgerStatement),
        responses=_problems(400, 409, 413, 422),
    )
    async def state(request: Request) -> LedgerVerdict:
        """A sender's own books for a run. 409 when counts went back while others went on: begin a new run."""
        sender, statement = await _stated(request, authenticator, envelopes)
        return _verdict(sender, await ledger.desk.state(sender, statement.books()))

    return router


async def _stated(
    request: Request, authenticator: Authenticator, envelopes: EnvelopeCheck
) -> tuple[Sender, LedgerStatement]:
    """Who states what. A sender of signed batches signs its statements too, over this path, and so keeps its name."""
    signed = None
    if "x-signature" in request.headers:
        signed = replace(await envelopes.admit(request.headers), path=LEDGER_PATH)
        sender = signed.sender
    else:
        tenant, principal = await authenticator.tenant_principal(request.headers, "ingest")
        sender = Sender(tenant, principal.key_id)
    body = await read_body(request.stream(), _STATEMENT_BYTES)
    if signed is not None:
        await signed.confirm(body)
    try:
        statement = LedgerStatement.model_validate_json(body)
    except ValidationError as error:
        parts = [f"{'.'.join(str(step) for step in item['loc'])}: {item['msg']}" for item in error.errors()]
        raise WireError(422, f"this is no statement: {'; '.join(parts)}"[:500]) from error
    return replace(sender, run=statement.run), statement


def _verdict(sender: Sender, verdict: Verdict) -> LedgerVerdict:
    books, found = verdict.books, verdict.balance
    return LedgerVerdict(
        agent=sender.agent,
        run=sender.run,
        taken=verdict.taken,
        balanced=found.balanced,
        missing=found.missing,
        excess=found.excess,
        detail=found.detail,
        head=books.head,
        server=RunBooksModel(
            stored_batches=books.stored_batches,
            stored=books.stored,
            duplicate_batches=books.duplicate_batches,
            duplicate=books.duplicate,
            elsewhere=books.elsewhere,
        ),
    )


def _batch_model(tenant: TenantId, row: dict[str, Any]) -> BatchModel:
    same = ("seq", "agent", "run", "records", "kind", "encoding", "bytes")
    return BatchModel(
        tenant=str(tenant),
        batch=str(batch_id(tenant, row["agent"], row["idempotency_key"], row["digest"])),
        received=iso_time(row["received"]),
        digest=row["digest"].hex(),
        **{name: row[name] for name in same},
    )


def _problems(*statuses: int) -> dict[int | str, Any]:
    return refusals({status: _REFUSALS[status] for status in statuses})


def _body_of(model: type[BaseModel]) -> dict[str, Any]:
    """The request body for OpenAPI; it is read by hand, so that its size is limited and the sender known before."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
