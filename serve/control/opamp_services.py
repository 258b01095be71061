"""What OpAMP does for an instance: its words are kept, and UPDATE_CONFIG jobs become offers of a configuration.

The jobs are those of agents of our own and go through the same states, in the same functions of the store: an offer is
a lease, APPLYING keeps it, APPLIED and FAILED end the job, silence gives it back until its attempts are used up. What
OpAMP cannot carry (jobs of other types, trials) is rejected as an agent would. One thing is weaker: the offer is not
signed by the job key, and the answer by nobody; both are guarded by the connection alone, and the evidence says so.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson

from agent.canonical import canonical
from detect.record import TenantId
from serve.control.opamp_messages import (
    ACCEPTS_REMOTE_CONFIG,
    APPLIED,
    APPLYING,
    FAILED,
    REPORT_FULL_STATE,
    REPORTS_REMOTE_CONFIG,
    REQUEST_INSTANCE_UID,
    SERVER_CAPABILITIES,
    UNSET,
    message_class,
)
from serve.control.opamp_state import Known, RemoteStatus, Said, known_from, merged, offer_hash, read_offer_hash
from serve.errors import WireError
from store.agent_policies import PolicyNotFound, policy_for_agent
from store.agents import is_revoked
from store.jobs import JobState
from store.jobs_delivery import LeasedJob, LeaseLost, Outcome, lease_jobs, record_signed, take_outcome
from store.opamp import (
    OfferedJob,
    Report,
    TooManyInstances,
    held_job,
    hold_instance,
    named_job,
    write_report,
)
from store.postgres import Pool, TenantTransaction, tenant_transaction

KEY_ID: Final = "opamp"
"""Stands where jobs of other agents name the key that signed them."""
_MOST_REJECTED: Final = 16
_FULL_RETRY_S: Final = 300
_STATES: Final[Mapping[int, JobState]] = {APPLIED: "succeeded", APPLYING: "running", FAILED: "failed"}


@dataclass(frozen=True, slots=True)
class OpampCaller:
    """Who speaks: the holder of a sender's key, or the agent that a client certificate names."""

    tenant: TenantId
    key_id: str
    agent: str | None

    @property
    def owner(self) -> str:
        """Who an instance belongs to that this caller brings."""
        return f"key:{self.key_id}" if self.agent is None else f"agent:{self.agent}"

    def may_speak_for(self, owner: str) -> bool:
        """What came with a certificate is that agent's alone; what came with a key any sender of the tenant's may."""
        return not owner.startswith("agent:") or owner == self.owner


@dataclass(frozen=True, slots=True)
class Offer:
    """A configuration for an instance: its text, and the hash to know it by."""

    text: str
    hash: bytes


class OpampServices:
    """Wired once per replica; holds nothing between messages."""

    def __init__(self, app_pool: Pool) -> None:
        self._app_pool = app_pool

    async def exchange(self, caller: OpampCaller, said: Said) -> bytes:
        """The ServerToAgent message for a message whose instance uid is well formed.

        Raises WireError 403 for who was revoked, 503 for an instance too many.
        """
        answer = message_class("ServerToAgent")(instance_uid=said.instance_uid, capabilities=SERVER_CAPABILITIES)
        renamed = bool(said.flags & REQUEST_INSTANCE_UID)
        if not renamed:
            async with tenant_transaction(self._app_pool, caller.tenant) as tx:
                renamed = not await self._heard(tx, caller, said, answer)
        if renamed:
            answer.agent_identification.new_instance_uid = new_instance_uid()
            answer.flags = REPORT_FULL_STATE
        data: bytes = answer.SerializeToString()
        return data

    async def _heard(self, tx: TenantTransaction, caller: OpampCaller, said: Said, answer: Any) -> bool:
        """Takes a message and fills in the answer; False where the instance's name is somebody else's."""
        if caller.agent is not None and await is_revoked(tx, caller.agent):
            raise _revoked(caller.agent)
        agent = agent_name(said.instance_uid)
        try:
            row = await hold_instance(tx, agent, caller.owner, actor=caller.owner)
        except TooManyInstances as error:
            raise WireError(503, str(error), retry_after_s=_FULL_RETRY_S, reason="too_many_agents") from error
        if not caller.may_speak_for(row.owner) or (row.active and row.native):
            return False
        if not row.active:
            raise _revoked(agent)
        known = await _answered(tx, agent, merged(known_from(row.health), said))
        known, offer = await _offered(tx, agent, known)
        report = Report(datetime.now(UTC), known.status, known.version, known.platform, known.stored(said.instance_uid))
        await write_report(tx, agent, report)
        if not known.complete:
            answer.flags = REPORT_FULL_STATE
        if offer is not None:
            file = answer.remote_config.config.config_map[""]
            file.body, file.content_type = offer.text.encode(), "text/yaml"
            answer.remote_config.config_hash = offer.hash
        return True


def agent_name(instance_uid: bytes) -> str:
    """The name under which an instance is listed, labelled and given jobs."""
    return f"opamp-{instance_uid.hex()}"


def new_instance_uid() -> bytes:
    """A UUID of version 7 (RFC 9562): the time in ms, then 74 random bits."""
    value = (time.time_ns() // 1_000_000 << 80) | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return value.to_bytes(16)


async def _answered(tx: TenantTransaction, agent: str, known: Known) -> Known:
    """Gives the job that the reported hash names the state that the instance reports."""
    remote = known.remote or RemoteStatus()
    state, named = _STATES.get(remote.status), read_offer_hash(remote.hash)
    if state is None or named is None:
        return known
    digest, job_id = named
    job = await named_job(tx, agent, job_id)
    if job is None or job.digest != digest:
        return known
    reason = "remote_config_failed" if state == "failed" else ""
    said = _outcome(agent, job.job_id, job.lease, job.attempt, state, reason, remote.detail)
    try:
        reached = await take_outcome(tx, agent, said)
    except LeaseLost:
        return known  # at work under a lease that has lapsed: the job is given out again below, or its time is over
    return replace(known, settled=remote.hash) if reached == "succeeded" else known


async def _offered(tx: TenantTransaction, agent: str, known: Known) -> tuple[Known, Offer | None]:
    """What to offer now: an open job's configuration, or the last settled one to an instance that has lost it."""
    job = await held_job(tx, agent)
    if job is None:
        known, job = await _next_job(tx, agent, known)
    remote = known.remote
    if job is not None:
        wanted = offer_hash(job.digest, job.job_id)
    elif known.settled and known.capabilities & ACCEPTS_REMOTE_CONFIG and remote and remote.status in {UNSET, APPLIED}:
        wanted = bytes.fromhex(known.settled)
    else:
        return known, None
    named = read_offer_hash(wanted.hex())
    if named is None or (remote is not None and remote.hash == wanted.hex()):
        return known, None
    try:
        return known, Offer(await policy_for_agent(tx, named[0], agent), wanted)
    except PolicyNotFound as error:
        if job is not None:
            said = _outcome(agent, job.job_id, job.lease, job.attempt, "failed", "not_fetched", str(error))
            await take_outcome(tx, agent, said)
        return known, None


async def _next_job(tx: TenantTransaction, agent: str, known: Known) -> tuple[Known, OfferedJob | None]:
    """Leases the next job that can be offered; those before it are ended as an agent of our own would end them."""
    for _ in range(_MOST_REJECTED):
        leased = await lease_jobs(tx, agent, 1)
        if not leased:
            break
        [job] = leased
        reason, detail = _refusal(job, known.capabilities)
        digest = "" if reason else orjson.loads(job.args)["digest"]
        envelope = {"agent": agent, "job": str(job.job_id), "protocol": "opamp", "args": orjson.loads(job.args)}
        await record_signed(tx, job, KEY_ID, canonical(envelope).decode(), b"", digest)
        remote = known.remote or RemoteStatus()
        named = read_offer_hash(remote.hash)
        state: JobState
        if reason:
            state = "rejected"
        elif named is not None and named[0] == digest and remote.status == APPLIED:
            state, detail = "succeeded", "this configuration runs already"
            known = replace(known, settled=remote.hash)
        else:
            offered = OfferedJob(job.job_id, digest, job.attempt, job.lease)
            if named == (digest, job.job_id) and remote.status == APPLYING:
                said = _outcome(agent, job.job_id, job.lease, job.attempt, "running", "", "")
                await take_outcome(tx, agent, said)
            return known, offered
        await take_outcome(tx, agent, _outcome(agent, job.job_id, job.lease, job.attempt, state, reason, detail))
    return known, None


def _refusal(job: LeasedJob, capabilities: int) -> tuple[str, str]:
    """Why a job cannot be carried to this instance: reason and detail, both empty when it can."""
    if job.type != "UPDATE_CONFIG":
        return "unknown_type", f"{job.type} cannot be carried by OpAMP, only UPDATE_CONFIG can"
    if job.dry_run:
        return "no_dry_run", "OpAMP has no trials: a configuration that is offered is applied"
    wanted = ACCEPTS_REMOTE_CONFIG | REPORTS_REMOTE_CONFIG
    if capabilities & wanted != wanted:
        return "unsupported", "this agent takes no remote configuration, or does not say what became of it"
    return "", ""


def _outcome(agent: str, job: UUID, lease: UUID, attempt: int, state: JobState, reason: str, detail: str) -> Outcome:
    """What the instance said, or what was decided for it, as evidence without a signature."""
    said = {
        "agent": agent,
        "attempt": attempt,
        "detail": detail,
        "job": str(job),
        "protocol": "opamp",
        "reason": reason,
        "state": state,
    }
    return Outcome(job, lease, attempt, state, reason, detail, "", False, canonical(said).decode(), b"")


def _revoked(agent: str) -> WireError:
    return WireError(403, f"the agent {agent!r} was revoked: it is not served any more", reason="agent_revoked")
