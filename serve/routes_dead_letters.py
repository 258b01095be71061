"""The API of dead letters: /api/dead-letters. Looking needs a key with the scope read, changing one with write."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field

from detect.batch import Stage
from serve.dead_letter_services import DeadLetterServices
from serve.errors import WireError
from serve.ingest.body import read_body
from serve.openapi import refusals
from serve.schemas import Model
from store.dead_letters import LetterState

_LARGEST_FIX = 4 * 2**20

_REFUSALS = {
    404: "There is no such dead letter.",
    409: "The letter is settled already, or is of a kind that cannot be treated so; the detail says what can.",
    422: "The cursor or the corrected request cannot be read.",
}


class DeadLetterModel(Model):
    """What failed in judging. It stands for `count` failures: of one record, of those at `positions` of the batch, or
    (folded) of one kind in one hour of receipt, batches `seq` to `last_seq`. `position` -1 is the whole batch."""

    letter_id: str
    seq: int
    position: int
    stage: Stage
    subject: str
    error: str
    state: LetterState
    count: int
    positions: str
    folded: bool
    last_seq: int
    hour: str
    attempts: int
    retry_seq: int | None
    settled_by: str | None
    settled_at: str | None
    created_at: str


class DeadLetterPage(Model):
    """Newest first."""

    items: list[DeadLetterModel]
    next_cursor: str | None


class DeadLetterDetail(DeadLetterModel):
    """With the first of its records, as they are stored and hashed, or the head of a batch that nobody can read
    (printable ASCII, other bytes as \\xNN). `pruned`: the journal does not hold the batch any more."""

    pruned: bool
    records: list[dict[str, Any]]
    head: str | None
    head_bytes: int | None


class Discarding(Model):
    """Why nothing is to be done."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=2000)


def dead_letter_routes(services: DeadLetterServices) -> APIRouter:
    """Looking at dead letters, and settling them."""
    router = APIRouter(prefix="/api/dead-letters", tags=["detection"], responses=refusals(_REFUSALS))

    @router.get("")
    async def letters(
        request: Request,
        state: Annotated[LetterState | Literal["any"], Query(description="`any` for all states.")] = "open",
        stage: Stage | None = None,
        limit: Annotated[int, Query(ge=1, le=500, description="Items a page.")] = 100,
        cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
    ) -> DeadLetterPage:
        """What failed in judging and waits for somebody, newest first."""
        wanted = None if state == "any" else state
        return DeadLetterPage(**await services.list(request.headers, wanted, stage, limit, cursor))

    @router.get("/{letter_id}")
    async def letter(request: Request, letter_id: UUID) -> DeadLetterDetail:
        """One dead letter with what it is about."""
        return DeadLetterDetail(**await services.show(request.headers, letter_id))

    @router.get("/{letter_id}/request", response_class=Response)
    async def letter_request(request: Request, letter_id: UUID) -> Response:
        """Its records as an OTLP/JSON request, for correcting."""
        return Response(await services.request(request.headers, letter_id), media_type="application/json")

    @router.post("/{letter_id}/retry", status_code=202)
    async def retry(request: Request, letter_id: UUID) -> DeadLetterModel:
        """Has it judged again, by the version and the rules in force now, at a recorded seq (`retry_seq`)."""
        return DeadLetterModel(**await services.retry(request.headers, letter_id))

    @router.post("/{letter_id}/fix", status_code=202)
    async def fix(request: Request, letter_id: UUID) -> DeadLetterModel:
        """Takes a corrected OTLP/JSON request (the body) in its place; its records say what they correct."""
        document = await read_body(request.stream(), _LARGEST_FIX)
        if not document:
            raise WireError(422, "the body is empty: send the corrected OTLP/JSON request")
        return DeadLetterModel(**await services.fix(request.headers, letter_id, document))

    @router.post("/{letter_id}/discard")
    async def discard(request: Request, letter_id: UUID, discarding: Discarding) -> DeadLetterModel:
        """Settles it without doing anything."""
        return DeadLetterModel(**await services.discard(request.headers, letter_id, discarding.reason))

    return router
