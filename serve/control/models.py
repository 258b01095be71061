"""The JSON of the operators' side of the Control API: agents, tokens, policies, jobs, rollouts."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, ConfigDict, Field, StringConstraints, model_validator

from agent.jobs import JobType
from serve.schemas import Model
from store.jobs import JobState
from store.jobs_rollouts import RolloutState

AgentName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:/@-]{0,63}$")]
Labels = Annotated[dict[Label, LabelValue], Field(max_length=32)]


class NewAgentToken(Model):
    """A token that enrols one agent, which will carry the labels. With `agent`, under that name only."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"labels": {"role": "web"}}]})

    note: str = Field(default="", max_length=100)
    agent: AgentName | None = None
    labels: Labels = Field(default={})
    hours: float = Field(default=24, gt=0, le=24 * 30, description="How long it can be used.")


class AgentTokenModel(Model):
    """A token without its secret."""

    token_id: str
    note: str
    agent: str | None
    labels: dict[str, str]
    created_by: str
    created_at: str
    expires_at: str
    spent_at: str | None
    spent_by: str | None
    revoked_at: str | None


class CreatedAgentToken(AgentTokenModel):
    """A new token. `token` is shown this once and stored nowhere."""

    token: str


class AgentModel(Model):
    """An agent. `status` and `health` are its own words of `last_seen`; `silent_s` how long ago that is."""

    agent: str
    state: Literal["active", "revoked"]
    labels: dict[str, str]
    status: Literal["unknown", "ok", "degraded", "failing"]
    version: str
    platform: str
    signing_key: str
    enrolled_by: str
    enrolled_at: str
    revoked_by: str | None
    revoked_at: str | None
    last_seen: str | None
    silent_s: float | None
    health: dict[str, Any]


class CertificateModel(Model):
    """A certificate that was signed for an agent."""

    serial: str
    begins: str
    ends: str
    revoked_at: str | None


class AgentMasking(Model):
    """Whether an agent masks as rules and other hosts take for granted. `alike`: by a key of the tenant and this
    program's policy; `otherwise`: rules miss what they name, `detail` says why; `unknown`: it has not said."""

    state: Literal["unknown", "off", "alike", "otherwise"]
    detail: str


class AgentDetail(AgentModel):
    """An agent with its newest certificates, and how it masks."""

    certificates: list[CertificateModel]
    masking: AgentMasking


class AgentPage(Model):
    """By name; `next_cursor` continues, null ends."""

    items: list[AgentModel]
    next_cursor: str | None


class LabelChange(Model):
    """The labels that the agent carries from now on, in place of those it has."""

    labels: Labels


class RevokedAgent(Model):
    """What a revocation took along. `listed`: the certificates are on the revocation list of the embedded authority."""

    agent: str
    certificates: list[str]
    listed: bool


class NewPolicy(Model):
    """The next version of a policy."""

    content: str = Field(min_length=1, max_length=262_144)


class PolicyModel(Model):
    """A version of a policy without its text; `digest` is the SHA-256 of the text in hex."""

    name: str
    version: int
    digest: str
    bytes: int
    created_by: str
    created_at: str


class PolicyDetail(PolicyModel):
    """A version of a policy with its text."""

    content: str


class NewJobRequest(Model):
    """A job for one agent, or for all that carry the labels, in waves.

    `waves` are percents that grow to 100. A wave's gate opens when all its jobs have ended and `gate_s` seconds have
    passed with no more than `most_failures` failures in all; otherwise the rollout stops by itself.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"agent": "web-1", "type": "PING"}]})

    agent: AgentName | None = None
    labels: Labels | None = None
    type: JobType
    args: dict[str, Any] = Field(default={})
    dry_run: bool = False
    idempotency_key: str | None = Field(default=None, pattern=r"^[!-~]{1,120}$")
    not_before: AwareDatetime | None = None
    lifetime_s: int = Field(default=3600, ge=10, le=2_505_600, description="From when it may begin.")
    max_attempts: int = Field(default=3, ge=1, le=20)
    waves: list[Annotated[int, Field(ge=1, le=100)]] = Field(default=[10, 50, 100], min_length=1, max_length=20)
    gate_s: int = Field(default=300, ge=0, le=86_400)
    most_failures: int = Field(default=0, ge=0, le=100_000)

    @model_validator(mode="after")
    def _one_addressee(self) -> NewJobRequest:
        if (self.agent is None) == (self.labels is None):
            raise ValueError("name either an agent or labels")
        if self.labels is not None and (self.idempotency_key or self.not_before):
            raise ValueError("idempotency_key and not_before are for one agent: a rollout makes its own")
        return self


class JobModel(Model):
    """A job. `attempt` counts how often it was handed out, `held`: its wave is not out yet."""

    job_id: UUID
    agent: str
    type: str
    args: dict[str, Any]
    dry_run: bool
    idempotency_key: str
    state: JobState
    rollout_id: UUID | None
    wave: int
    held: bool
    created_by: str
    created_at: str
    approved_by: str | None
    approved_at: str | None
    not_before: str
    expires_at: str
    max_attempts: int
    attempt: int
    lease_until: str | None
    key_id: str | None
    reason: str
    detail: str
    started_at: str | None
    ended_at: str | None


class JobDetail(JobModel):
    """A job with its evidence: what was signed on both sides, as it was signed, and what it printed."""

    envelope: str | None
    signature: str | None
    result: str | None
    result_signature: str | None
    output: str
    output_truncated: bool
    file_digest: str | None
    file_size: int | None


class JobPage(Model):
    """Newest first; `next_cursor` continues, null ends."""

    items: list[JobModel]
    next_cursor: str | None


class RolloutModel(Model):
    """A rollout: `wave` is the one that is out (0: none), `counts` are jobs by wave and state."""

    rollout_id: UUID
    state: RolloutState
    type: str
    labels: dict[str, str]
    waves: list[int]
    gate_s: int
    most_failures: int
    lifetime_s: int
    agents: int
    wave: int
    failures: int
    detail: str
    created_by: str
    created_at: str
    approved_by: str | None
    changed_at: str
    counts: dict[int, dict[str, int]] = Field(default={})


class RolloutPage(Model):
    """Newest first; `next_cursor` continues, null ends."""

    items: list[RolloutModel]
    next_cursor: str | None


class MadeJob(Model):
    """The job, or for labels the rollout."""

    job: JobModel | None = None
    rollout: RolloutModel | None = None


class ApprovalTypes(Model):
    """The types of jobs that wait for somebody else's approval; null: the installation's list."""

    types: list[JobType] | None = Field(max_length=16)


class ApprovalTypesModel(Model):
    """The list in force, and whether it is the tenant's own."""

    types: list[str]
    own: bool
