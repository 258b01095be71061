"""Rows of the store as the Control API shows them. Times are RFC 3339 in UTC."""

from __future__ import annotations

import base64
from dataclasses import asdict
from datetime import datetime
from typing import Any

import orjson

from serve.control.models import (
    AgentDetail,
    AgentMasking,
    AgentModel,
    AgentTokenModel,
    CertificateModel,
    JobDetail,
    JobModel,
    PolicyModel,
    RolloutModel,
)
from store.agent_policies import PolicyRow
from store.agents import AgentRow, CertificateRow
from store.agents_enrolment import TokenRow
from store.jobs import JobEvidence, JobRow
from store.jobs_rollouts import RolloutRow
from store.values import iso_time


def token_model(row: TokenRow) -> AgentTokenModel:
    """A token without its secret."""
    return AgentTokenModel(**_shown(asdict(row)))


def agent_model(row: AgentRow, now: datetime) -> AgentModel:
    """An agent as it is listed."""
    return AgentModel(**_agent(row, now))


def agent_detail(
    row: AgentRow, certificates: list[CertificateRow], masking: AgentMasking, now: datetime
) -> AgentDetail:
    """An agent with its certificates, and how it masks."""
    shown = [CertificateModel(**_shown(asdict(certificate))) for certificate in certificates]
    return AgentDetail(**_agent(row, now), certificates=shown, masking=masking)


def policy_model(row: PolicyRow) -> PolicyModel:
    """A version of a policy without its text."""
    return PolicyModel(**_shown(asdict(row)))


def job_model(row: JobRow) -> JobModel:
    """A job as it is listed."""
    return JobModel(**_job(row))


def job_detail(row: JobRow, evidence: JobEvidence) -> JobDetail:
    """A job with what was signed and printed."""
    return JobDetail(
        **_job(row),
        envelope=evidence.envelope,
        signature=_base64(evidence.signature),
        result=evidence.result,
        result_signature=_base64(evidence.result_signature),
        output=evidence.output,
        output_truncated=evidence.output_truncated,
        file_digest=None if evidence.file_digest is None else evidence.file_digest.hex(),
        file_size=evidence.file_size,
    )


def rollout_model(row: RolloutRow) -> RolloutModel:
    """A rollout and how far it is."""
    return RolloutModel(**_shown(asdict(row)))


def _agent(row: AgentRow, now: datetime) -> dict[str, Any]:
    values = asdict(row)
    del values["result_key"]
    silent = None if row.last_seen is None else round(max(0.0, (now - row.last_seen).total_seconds()), 3)
    return _shown(values) | {"silent_s": silent}


def _job(row: JobRow) -> dict[str, Any]:
    values = asdict(row) | {"args": orjson.loads(row.args)}
    # The lease is what lets its holder speak for the job: nobody else needs to know it.
    del values["lease"], values["issued_at"]
    return _shown(values)


def _shown(values: dict[str, Any]) -> dict[str, Any]:
    return {name: iso_time(value) if isinstance(value, datetime) else value for name, value in values.items()}


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()
