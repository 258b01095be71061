"""Files that COLLECT_FILE jobs bring: chunk by chunk under one lease, whole or not at all, forgotten after days."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from store.audit import append_audit
from store.jobs import JobNotFound, job_object
from store.jobs_delivery import keep_lease
from store.postgres import Pool, TenantTransaction, system_transaction
from store.queries import sql
from store.values import text

MOST_FILE_BYTES = 16 * 2**20


class FileRefused(Exception):
    """A chunk that does not fit what was said of the file; it must be sent again from its beginning."""


@dataclass(frozen=True, slots=True)
class FileChunk:
    """A part of a file, from `offset` on, with what was said of the whole: size in bytes and SHA-256."""

    job: UUID
    lease: UUID
    path: str
    size: int
    digest: bytes
    offset: int
    data: bytes


async def add_chunk(tx: TenantTransaction, agent: str, chunk: FileChunk) -> tuple[int, bool]:
    """Keeps the next chunk of a file, and extends the lease; returns the bytes kept and whether the file is complete.

    A chunk from 0 on begins anew, unless the file is complete; one that is there already changes nothing. Raises
    JobNotFound, LeaseLost, FileRefused. Of a file whose digest is not the one that was said nothing stays: the
    transaction must end with the error.
    """
    await keep_lease(tx, agent, chunk.job, "COLLECT_FILE", chunk.lease)
    if not 0 <= chunk.size <= MOST_FILE_BYTES or not 0 <= chunk.offset <= chunk.size - len(chunk.data):
        raise FileRefused(f"a file has at most {MOST_FILE_BYTES} bytes, and a chunk lies inside it")
    known = await tx.connection.fetchrow(sql("job_file_state"), chunk.job)
    same = known is not None and (known["lease"], known["digest"], known["size"], known["path"]) == (
        chunk.lease,
        chunk.digest,
        chunk.size,
        text(chunk.path, 4096),
    )
    received = known["received"] if known is not None and same else 0
    if known is not None and (known["complete"] or (same and 0 < chunk.offset + len(chunk.data) <= received)):
        return known["received"], known["complete"]
    if chunk.offset == 0:
        await tx.connection.execute(sql("job_file_drop"), chunk.job)
        begun = (tx.tenant, chunk.job, chunk.lease, text(chunk.path, 4096), chunk.digest, chunk.size)
        await tx.connection.execute(sql("job_file_begin"), *begun)
        received = 0
    elif not same or chunk.offset != received:
        raise FileRefused(f"{received} bytes are here: go on there, or begin at 0")
    await tx.connection.execute(sql("job_file_chunk"), tx.tenant, chunk.job, chunk.offset, chunk.data)
    received += len(chunk.data)
    complete = received == chunk.size
    if complete:
        await _check(tx, chunk)
        detail = {"path": text(chunk.path, 4096), "digest": chunk.digest.hex(), "size": chunk.size}
        await append_audit(tx, f"agent:{agent}", "job.file", job_object(chunk.job), detail)
    await tx.connection.execute(sql("job_file_received"), chunk.job, received, complete)
    return received, complete


async def read_file(tx: TenantTransaction, job: UUID, *, actor: str) -> tuple[bytes, bytes]:
    """Digest and content of the file that a job brought; who reads it is in the audit log. Raises JobNotFound."""
    row = await tx.connection.fetchrow(sql("job_file_state"), job)
    if row is None or not row["complete"]:
        raise JobNotFound(f"the job {job} has brought no file, or it is past its time")
    content = b"".join(chunk["content"] for chunk in await tx.connection.fetch(sql("job_file_chunks"), job))
    await append_audit(tx, actor, "job.file_read", job_object(job), {"digest": row["digest"].hex()})
    return row["digest"], content


async def tenants_with_old_files(pool: Pool, before: datetime) -> list[UUID]:
    """Whose collected files are older. Takes a pool of the writer role."""
    async with system_transaction(pool) as tx:
        rows = await tx.connection.fetch(sql("tenants_with_old_files"), before)
    return [UUID(int=row["tenant_id"].int) for row in rows]


async def forget_files(tx: TenantTransaction, before: datetime) -> int:
    """Deletes files that came before; returns how many."""
    status: str = await tx.connection.execute(sql("job_files_forget"), before)
    return int(status.removeprefix("DELETE "))


async def _check(tx: TenantTransaction, chunk: FileChunk) -> None:
    hashed = hashlib.sha256()
    for row in await tx.connection.fetch(sql("job_file_chunks"), chunk.job):
        hashed.update(row["content"])
    if hashed.digest() != chunk.digest:
        raise FileRefused("the file is not of the digest that was said: send it again")
