"""Working on dead letters: look, judge again, correct, discard. Each change is one transaction with an audit row."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from actors.control import append_retry
from detect.batch import Batch, Stage
from detect.otlp import UndecodableBatch, count_records
from detect.otlp.encode import json_request
from detect.record import TenantId, canonical_json
from detect.retry import NotRetryable, parked_records, retry_control
from serve.auth import Authenticator
from serve.errors import WireError
from serve.ingest.intake import errors_on_the_wire
from store.dead_letters import (
    DeadLetter,
    LetterNotFound,
    LetterState,
    letter_view,
    list_letters,
    read_batch,
    read_letter,
    settle_letter,
)
from store.journal import JournalEntry, JournalWriter
from store.postgres import Pool, TenantTransaction, tenant_transaction
from store.queries import sql

CORRECTIONS_AGENT = "corrections"
"""Whom the journal names as sender of corrected records; keys, which name other senders, have ids of hex digits."""

CORRECTS = "trustsoc.corrects"
"""The attribute of a corrected record that names the place of the original."""

_SHOWN_RECORDS = 5
_SHOWN_BYTES = 512

Headers = Mapping[str, str]


class DeadLetterServices:
    """Wired once per replica. Looking needs a tenant's key with `read`, everything else one with `write`.

    WireError 401, 403, 404; 409 when the letter's state or kind does not allow it; 422; 503.
    """

    def __init__(
        self, authenticator: Authenticator, app_pool: Pool, journal: JournalWriter, hint: Callable[[TenantId], None]
    ) -> None:
        self._authenticator = authenticator
        self._app_pool = app_pool
        self._journal = journal
        self._hint = hint

    async def list(
        self, headers: Headers, state: LetterState | None, stage: Stage | None, limit: int, cursor: str | None
    ) -> dict[str, Any]:
        """A page of letters, newest first."""
        tenant, _ = await self._authenticator.tenant_principal(headers, "read")
        async with tenant_transaction(self._app_pool, tenant) as tx:
            page = await list_letters(tx, state, stage, limit, cursor)
        return {"items": page.items, "next_cursor": page.next_cursor}

    async def show(self, headers: Headers, letter_id: UUID) -> dict[str, Any]:
        """A letter with what it is about: its first records as stored and hashed, or the head of the batch."""
        tenant, _ = await self._authenticator.tenant_principal(headers, "read")
        async with tenant_transaction(self._app_pool, tenant) as tx:
            letter = await _letter(tx, letter_id)
            batch = None if letter.folded else await _batch(tx, letter)
        shown: dict[str, Any] = {"records": [], "head": None, "head_bytes": None}
        if batch is not None:
            shown = await asyncio.to_thread(_content, letter, batch)
        return letter_view(letter) | {"pruned": batch is None and not letter.folded} | shown

    async def request(self, headers: Headers, letter_id: UUID) -> bytes:
        """The letter's records as an OTLP/JSON request, to be edited and sent back by `fix`."""
        tenant, _ = await self._authenticator.tenant_principal(headers, "read")
        async with tenant_transaction(self._app_pool, tenant) as tx:
            letter = await _letter(tx, letter_id)
            batch = await _batch_or_conflict(tx, letter)
        try:
            records = await asyncio.to_thread(parked_records, _all_of(letter), batch)
        except NotRetryable as error:
            raise WireError(409, str(error)) from error
        return json_request(records, indent=2)

    async def retry(self, headers: Headers, letter_id: UUID) -> dict[str, Any]:
        """Has it judged again by what is in force now; asking again while that waits or after it went well is idle."""
        tenant, principal = await self._authenticator.tenant_principal(headers, "write")
        async with tenant_transaction(self._app_pool, tenant) as tx:
            letter = await _letter(tx, letter_id, lock=True)
            if letter.state in ("retrying", "retried"):
                return letter_view(letter)
            _require_open(letter)
            batch = await _batch_or_conflict(tx, letter)
            await _require_newest_rules(tx, letter)
            try:
                control = await asyncio.to_thread(retry_control, letter.parked, batch)
            except NotRetryable as error:
                raise WireError(409, str(error)) from error
            with errors_on_the_wire():
                appended = await append_retry(
                    self._journal, tenant, control, letter.letter_id, letter.attempts, datetime.now(UTC)
                )
            await settle_letter(tx, letter, "retrying", actor=principal.key_id, seq=appended.seq)
            letter = await read_letter(tx, letter_id)
        self._hint(tenant)
        return letter_view(letter)

    async def fix(self, headers: Headers, letter_id: UUID, document: bytes) -> dict[str, Any]:
        """Takes a corrected OTLP/JSON request in place of what failed, as a batch that names the original."""
        tenant, principal = await self._authenticator.tenant_principal(headers, "write")
        async with tenant_transaction(self._app_pool, tenant) as tx:
            letter = await _letter(tx, letter_id, lock=True)
            _require_open(letter)
            payload, records = await asyncio.to_thread(_corrected, document, letter)
            try:
                with errors_on_the_wire():
                    appended = await self._journal.append(_correction(tenant, letter, payload, records))
            except WireError as error:
                if error.reason != "key_reused":
                    raise
                raise WireError(409, "another correction of this letter is being stored: look again") from error
            await settle_letter(tx, letter, "fixed", actor=principal.key_id, seq=appended.seq, records=records)
            letter = await read_letter(tx, letter_id)
        self._hint(tenant)
        return letter_view(letter)

    async def discard(self, headers: Headers, letter_id: UUID, reason: str) -> dict[str, Any]:
        """Says that nothing is to be done about it; the letter stays in the list of the discarded."""
        tenant, principal = await self._authenticator.tenant_principal(headers, "write")
        async with tenant_transaction(self._app_pool, tenant) as tx:
            letter = await _letter(tx, letter_id, lock=True)
            if letter.state != "discarded":
                _require_open(letter)
                await settle_letter(tx, letter, "discarded", actor=principal.key_id, reason=reason)
            return letter_view(await read_letter(tx, letter_id))


async def _letter(tx: TenantTransaction, letter_id: UUID, *, lock: bool = False) -> DeadLetter:
    try:
        return await read_letter(tx, letter_id, lock=lock)
    except LetterNotFound as error:
        raise WireError(404, str(error)) from error


async def _batch(tx: TenantTransaction, letter: DeadLetter) -> Batch | None:
    row = await read_batch(tx, letter.seq)
    return None if row is None else await asyncio.to_thread(row.batch)


async def _batch_or_conflict(tx: TenantTransaction, letter: DeadLetter) -> Batch:
    if letter.folded:
        span = f"--from {letter.seq} --to {letter.last_seq}"
        raise WireError(
            409,
            f"this letter counts {letter.count} failures and keeps none of them: "
            f"`trustsoc replay {span}` shows what is said of those batches now; discard it",
        )
    batch = await _batch(tx, letter)
    if batch is None:
        raise WireError(
            409, f"batch {letter.seq} has been pruned from the journal: send the records again, or discard it"
        )
    return batch


def _require_open(letter: DeadLetter) -> None:
    if letter.state != "open":
        raise WireError(409, f"this letter is {letter.state} (by {letter.settled_by}): only an open one can be settled")


async def _require_newest_rules(tx: TenantTransaction, letter: DeadLetter) -> None:
    """A rule set that could not be put in force must not replace one that was put in force since."""
    digest = letter.subject.removeprefix("rules ")
    if letter.stage != "sigma" or digest == letter.subject:
        return
    newest = await tx.connection.fetchval(sql("control_rules_newest"))
    if newest != digest:
        raise WireError(409, f"another rule set ({newest[:12]}) has been put in force since: discard this letter")


def _all_of(letter: DeadLetter) -> Any:
    parked = letter.parked
    return parked if parked.position >= 0 else type(parked)(parked.seq, 0, parked.stage, parked.subject, 2)


def _content(letter: DeadLetter, batch: Batch) -> dict[str, Any]:
    """Runs in a thread: a batch may have 64 MiB."""
    head = batch.payload[:_SHOWN_BYTES]
    shown: dict[str, Any] = {"records": [], "head": None, "head_bytes": len(batch.payload)}
    if letter.position >= 0:
        try:
            records = parked_records(letter.parked, batch)[:_SHOWN_RECORDS]
            return shown | {"records": [orjson.loads(canonical_json(record)) for record in records]}
        except NotRetryable:
            return shown | {"head": _visible(head)}
    return shown | {"head": _visible(head)}


def _visible(head: bytes) -> str:
    """Bytes as text that no terminal and no browser takes for more: printable ASCII, the rest as \\xNN."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in head)


def _corrected(document: bytes, letter: DeadLetter) -> tuple[bytes, int]:
    """The request with the place of the original in every record, and how many records it has. Runs in a thread."""
    try:
        records = count_records("otlp_json", document)
        request = orjson.loads(document)
    except (UndecodableBatch, orjson.JSONDecodeError) as error:
        raise WireError(422, f"the corrected request cannot be read: {error}") from error
    if records == 0:
        raise WireError(422, "the corrected request has no log records: discard the letter if there is nothing to say")
    place = f"{letter.seq}-{letter.position}" if letter.position >= 0 else str(letter.seq)
    mark = {"key": CORRECTS, "value": {"stringValue": place}}
    for resource_logs in request.get("resourceLogs") or ():
        for scope_logs in resource_logs.get("scopeLogs") or ():
            for record in scope_logs.get("logRecords") or ():
                kept = [item for item in record.get("attributes") or () if item.get("key") != CORRECTS]
                record["attributes"] = [*kept, mark]
    return orjson.dumps(request), records


def _correction(tenant: TenantId, letter: DeadLetter, payload: bytes, records: int) -> JournalEntry:
    return JournalEntry(
        tenant=tenant,
        agent=CORRECTIONS_AGENT,
        idempotency_key=b"fix:" + letter.letter_id.bytes,
        digest=hashlib.sha256(payload).digest(),
        kind="otlp_json",
        encoding="identity",
        records=records,
        payload=payload,
        received=datetime.now(UTC),
    )
