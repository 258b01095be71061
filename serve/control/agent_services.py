"""What the agent API does for an agent that was admitted: jobs out under leases, results and evidence in."""

from __future__ import annotations

import asyncio
import base64
import binascii
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn
from uuid import UUID

import orjson

from actors.metrics import Metrics
from agent.jobs import Job, JobRefused, job_digest, public_key, sign_job, verify_result
from serve.control.agent_door import AgentCaller
from serve.control.agent_models import CertificateRequest, FilePart, Health, OutputPart, PullRequest, SignedResult
from serve.control.certificate_signer import CertificateSigner, read_request
from serve.control.enrolment import certificate_row
from serve.control.health_book import HealthBook
from serve.control.job_hints import JobHints
from serve.control.job_keys import HeldJobKeys
from serve.errors import WireError
from serve.peer import PeerIdentity
from store.agent_policies import PolicyNotFound, policy_for_agent
from store.agents import HeardHealth, certificates_for_job, record_certificate
from store.jobs import JobNotFound
from store.jobs_delivery import (
    AgentStanding,
    LeasedJob,
    LeaseLost,
    Outcome,
    add_output,
    agent_standing,
    ask_standing,
    keep_lease,
    lease_jobs,
    record_signed,
    take_outcome,
)
from store.jobs_files import FileChunk, FileRefused, add_chunk
from store.postgres import Pool, TenantTransaction, tenant_transaction
from store.tenants import own_tenant
from store.values import nanoseconds

_LEAST_WAIT_S = 0.2
# When everybody is woken at once (words may have been missed), this many look each second.
_LOOKS_PER_S = 200.0
_SPREAD_S = 5.0
_MOST_CERTIFICATES = 5

Gone = Callable[[], Awaitable[bool]]


class AgentServices:
    """Wired once per replica. Every method is for one agent that the door has admitted; all raise WireError."""

    def __init__(
        self,
        app_pool: Pool,
        job_keys: HeldJobKeys,
        signer: CertificateSigner,
        hints: JobHints,
        health: HealthBook,
        metrics: Metrics,
    ) -> None:
        self._app_pool = app_pool
        self._job_keys = job_keys
        self._signer = signer
        self._hints = hints
        self._health = health
        self._metrics = metrics

    async def pull(self, caller: AgentCaller, wanted: PullRequest, gone: Gone) -> dict[str, Any]:
        """Jobs for the agent, as soon as there is one or when the wait is over. `gone`: whether it waits no more."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wanted.wait_s
        self._job_keys.ring()  # 503 before a job is taken that nobody could sign
        items: list[dict[str, Any]] = []
        with self._hints.waiter(caller.tenant, caller.agent) as waiter:
            first = True
            while True:
                waiter.clear()
                standing = await self._standing(caller)
                if first:
                    self._note(caller, wanted.health)
                    first = False
                now = datetime.now(UTC)
                if standing.next_at is not None and standing.next_at <= now:
                    items = await self._lease(caller, wanted.most)
                left = deadline - loop.time()
                if items or left <= 0:
                    break
                wait = left
                if standing.next_at is not None:
                    wait = min(left, max(_LEAST_WAIT_S, (standing.next_at - now).total_seconds()))
                woken = await waiter.wait(wait)
                if not woken and wait == left:
                    break
                if waiter.spread:
                    spread = max(_SPREAD_S, self._hints.waiting / _LOOKS_PER_S)
                    await asyncio.sleep(random.uniform(0, min(spread, max(0.0, deadline - loop.time()))))  # noqa: S311
                if await gone():
                    break
        now_ms = nanoseconds(datetime.now(UTC)) // 1_000_000
        return {"items": items, "server_time": now_ms, "job_keys": self._job_keys.statement()}

    async def result(self, caller: AgentCaller, said: SignedResult) -> dict[str, Any]:
        """Takes a signed result; a final one that is repeated changes nothing."""
        async with tenant_transaction(self._app_pool, caller.tenant) as tx:
            standing = _active(await agent_standing(tx, caller.agent))
            try:
                result = verify_result(
                    said.result.encode("utf-8", "surrogatepass"),
                    said.signature,
                    public_key(standing.result_key),
                    caller.agent,
                )
            except JobRefused as error:
                status = 422 if error.reason == "malformed" else 403
                raise WireError(status, f"the result is refused: {error}", reason=error.reason) from error
            outcome = Outcome(
                result.job,
                result.lease,
                result.attempt,
                result.state,
                result.reason,
                result.detail,
                result.output,
                result.output_truncated,
                said.result,
                base64.b64decode(said.signature),
            )
            try:
                state = await take_outcome(tx, caller.agent, outcome)
            except (JobNotFound, LeaseLost) as error:
                _refuse(error)
        self._metrics.count("job_results", state=state)
        return {"state": state}

    async def output(self, caller: AgentCaller, part: OutputPart) -> dict[str, Any]:
        """Takes what a job printed; says how much is kept, in characters."""
        async with self._own(caller) as tx:
            try:
                size, truncated = await add_output(tx, caller.agent, part.job, part.lease, part.offset, part.data)
            except (JobNotFound, LeaseLost) as error:
                _refuse(error)
        return {"size": size, "truncated": truncated}

    async def file(self, caller: AgentCaller, part: FilePart) -> dict[str, Any]:
        """Takes a part of a collected file; says how much is kept, in bytes."""
        try:
            data = base64.b64decode(part.data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise WireError(422, "data is not base64", field="data") from error
        digest = bytes.fromhex(part.digest)
        chunk = FileChunk(part.job, part.lease, part.path, part.size, digest, part.offset, data)
        async with self._own(caller) as tx:
            try:
                received, complete = await add_chunk(tx, caller.agent, chunk)
            except (JobNotFound, LeaseLost) as error:
                _refuse(error)
            except FileRefused as error:
                raise WireError(422, str(error)) from error
        return {"received": received, "complete": complete}

    async def policy(self, caller: AgentCaller, digest: str) -> str:
        """The text of a policy that one of the agent's jobs names."""
        async with self._own(caller) as tx:
            try:
                return await policy_for_agent(tx, digest, caller.agent)
            except PolicyNotFound as error:
                raise WireError(404, str(error)) from error

    async def certificate(self, caller: AgentCaller, wanted: CertificateRequest) -> dict[str, Any]:
        """A new certificate for a CERT_ROTATE job that the agent holds."""
        request = read_request(wanted.csr)
        authority = self._signer.authority()
        async with self._own(caller) as tx:
            try:
                await keep_lease(tx, caller.agent, wanted.job, "CERT_ROTATE")
            except (JobNotFound, LeaseLost) as error:
                _refuse(error)
            if await certificates_for_job(tx, caller.agent, wanted.job) >= _MOST_CERTIFICATES:
                raise WireError(409, f"{_MOST_CERTIFICATES} certificates were signed for this job already")
            name = (await own_tenant(tx)).name
            identity = PeerIdentity(caller.tenant, caller.agent)
            issued = await self._signer.sign(request, name, identity, datetime.now(UTC))
            actor = f"agent:{caller.agent}"
            await record_certificate(tx, caller.agent, certificate_row(issued), actor=actor, job=wanted.job)
        return {"certificate": issued.pem, "authority": authority}

    async def standing(self, caller: AgentCaller) -> None:
        """Refuses an agent that was revoked or never enrolled: 403."""
        await self._standing(caller)

    async def _standing(self, caller: AgentCaller) -> AgentStanding:
        return _active(await ask_standing(self._app_pool, caller.tenant, caller.agent))

    @asynccontextmanager
    async def _own(self, caller: AgentCaller) -> AsyncIterator[TenantTransaction]:
        """A transaction of the caller's tenant, once the caller is known to be an active agent."""
        async with tenant_transaction(self._app_pool, caller.tenant) as tx:
            _active(await agent_standing(tx, caller.agent))
            yield tx

    async def _lease(self, caller: AgentCaller, most: int) -> list[dict[str, Any]]:
        async with tenant_transaction(self._app_pool, caller.tenant) as tx:
            return [await self._signed(tx, job) for job in await lease_jobs(tx, caller.agent, most)]

    async def _signed(self, tx: TenantTransaction, leased: LeasedJob) -> dict[str, Any]:
        key = self._job_keys.ring().signer
        job = Job(
            id=leased.job_id,
            tenant=UUID(int=tx.tenant.int),
            agent=leased.agent,
            type=leased.type,
            args=orjson.loads(leased.args),
            issued_at=_ms(leased.issued_at),
            not_before=_ms(leased.not_before),
            expires_at=_ms(leased.expires_at),
            idempotency_key=leased.idempotency_key,
            key_id=key.key_id,
            dry_run=leased.dry_run,
        )
        text, signature = sign_job(key.private, job)
        digest = job_digest(text.encode())
        await record_signed(tx, leased, key.key_id, text, base64.b64decode(signature), digest)
        return {
            "job": text,
            "signature": signature,
            "lease": str(leased.lease),
            "attempt": leased.attempt,
            "lease_until": _ms(leased.lease_until),
        }

    def _note(self, caller: AgentCaller, said: Health) -> None:
        health = said.model_dump(mode="json", exclude={"status", "version"})
        heard = HeardHealth(caller.agent, datetime.now(UTC), said.status, said.version, health)
        self._health.note(caller.tenant, heard)


def _active(standing: AgentStanding | None) -> AgentStanding:
    if standing is None:
        raise WireError(403, "this agent was never enrolled: enrol it with a token", reason="not_enrolled")
    if not standing.active:
        raise WireError(403, "this agent was revoked: enrol it again with a new token", reason="agent_revoked")
    return standing


def _refuse(error: JobNotFound | LeaseLost) -> NoReturn:
    if isinstance(error, LeaseLost):
        raise WireError(409, str(error), reason="lease_lost") from error
    raise WireError(404, str(error)) from error


def _ms(moment: datetime) -> int:
    return nanoseconds(moment) // 1_000_000
