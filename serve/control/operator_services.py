"""What operators do with agents: tokens, labels, revocation, policies. Reading needs `read`, changing `operate`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import structlog

from detect.record import TenantId
from serve.auth import Authenticator
from serve.control.certificate_signer import CertificateSigner
from serve.control.job_hints import JobHints
from serve.control.models import (
    AgentDetail,
    AgentModel,
    AgentPage,
    AgentTokenModel,
    ApprovalTypesModel,
    CreatedAgentToken,
    NewAgentToken,
    PolicyDetail,
    PolicyModel,
    RevokedAgent,
)
from serve.control.views import agent_detail, agent_model, policy_model, token_model
from serve.errors import WireError
from serve.masking.services import masking_of_agent
from serve.named_tenant import named_tenant
from serve.signing_keyring import SigningKeyring
from store.agent_policies import PolicyNotFound, add_policy, get_policy, list_policies
from store.agents import (
    AgentFilter,
    AgentNotFound,
    get_agent,
    label_agent,
    list_agents,
    list_certificates,
    revoke_agent,
)
from store.agents_enrolment import TokenNotFound, create_token, list_tokens, revoke_token
from store.jobs import approval_types, set_approval_types
from store.postgres import Pool, tenant_transaction

logger = structlog.get_logger("agents")

Headers = Mapping[str, str]


class AgentAdministration:
    """Wired once per replica. All methods raise WireError 401, 403, 404, 422, 503."""

    def __init__(
        self,
        authenticator: Authenticator,
        app_pool: Pool,
        writer_pool: Pool,
        keyring: SigningKeyring,
        signer: CertificateSigner,
        hints: JobHints,
    ) -> None:
        self._authenticator = authenticator
        self._app_pool = app_pool
        self._writer_pool = writer_pool
        self._keyring = keyring
        self._signer = signer
        self._hints = hints

    async def create_token(self, headers: Headers, new: NewAgentToken) -> CreatedAgentToken:
        """A new token; its text is in the answer and nowhere else."""
        tenant, actor = await self._operator(headers)
        expires = datetime.now(UTC) + timedelta(hours=new.hours)
        try:
            async with tenant_transaction(self._app_pool, tenant) as tx:
                made = await create_token(tx, new.note, new.labels, expires, actor=actor, agent=new.agent)
        except ValueError as error:
            raise WireError(422, str(error)) from error
        return CreatedAgentToken(**token_model(made.row).model_dump(), token=made.secret_text)

    async def tokens(self, headers: Headers) -> list[AgentTokenModel]:
        """The tenant's tokens, the newest first."""
        async with tenant_transaction(self._app_pool, await self._reader(headers)) as tx:
            return [token_model(row) for row in await list_tokens(tx)]

    async def revoke_token(self, headers: Headers, token_id: str) -> None:
        """Ends a token that nobody has used."""
        tenant, actor = await self._operator(headers)
        try:
            async with tenant_transaction(self._app_pool, tenant) as tx:
                await revoke_token(tx, token_id, actor=actor)
        except TokenNotFound as error:
            raise WireError(404, str(error)) from error

    async def agents(self, headers: Headers, wanted: AgentFilter, limit: int, cursor: str | None) -> AgentPage:
        """A page of agents by name; the cursor is the name after which it begins."""
        async with tenant_transaction(self._app_pool, await self._reader(headers)) as tx:
            rows = await list_agents(tx, wanted, limit + 1, cursor or "")
        now = datetime.now(UTC)
        more = rows[limit - 1].agent if len(rows) > limit else None
        return AgentPage(items=[agent_model(row, now) for row in rows[:limit]], next_cursor=more)

    async def agent(self, headers: Headers, agent: str) -> AgentDetail:
        """One agent, active or revoked."""
        async with tenant_transaction(self._app_pool, await self._reader(headers)) as tx:
            found = await get_agent(tx, agent)
            if found is None:
                raise WireError(404, f"there is no agent {agent!r}")
            masking = await masking_of_agent(tx, self._keyring, found)
            return agent_detail(found, await list_certificates(tx, agent), masking, datetime.now(UTC))

    async def label(self, headers: Headers, agent: str, labels: dict[str, str]) -> AgentModel:
        """Replaces an agent's labels."""
        tenant, actor = await self._operator(headers)
        try:
            async with tenant_transaction(self._app_pool, tenant) as tx:
                return agent_model(await label_agent(tx, agent, labels, actor=actor), datetime.now(UTC))
        except AgentNotFound as error:
            raise WireError(404, str(error)) from error
        except ValueError as error:
            raise WireError(422, str(error)) from error

    async def revoke(self, headers: Headers, agent: str) -> RevokedAgent:
        """Ends an agent for ever: keys, certificates and open jobs. Other replicas follow within seconds."""
        tenant, actor = await self._operator(headers)
        try:
            async with tenant_transaction(self._app_pool, tenant) as tx:
                serials = await revoke_agent(tx, agent, actor=actor)
        except AgentNotFound as error:
            raise WireError(404, str(error)) from error
        self._keyring.forget()
        self._hints.hint(tenant, agent)
        try:
            listed = self._signer.revoke(serials, datetime.now(UTC))
        except (OSError, WireError) as error:
            # The agent is revoked all the same: its key is over, and the door asks whether it is active.
            logger.error("certificates are not on the revocation list", agent=agent, serials=serials, error=str(error))
            listed = False
        return RevokedAgent(agent=agent, certificates=serials, listed=listed)

    async def add_policy(self, headers: Headers, name: str, content: str) -> PolicyModel:
        """The next version of a policy, or the newest when it is the same."""
        tenant, actor = await self._operator(headers)
        try:
            async with tenant_transaction(self._app_pool, tenant) as tx:
                return policy_model(await add_policy(tx, name, content, actor=actor))
        except ValueError as error:
            raise WireError(422, str(error)) from error

    async def policies(self, headers: Headers) -> list[PolicyModel]:
        """Every version of every policy, without texts."""
        async with tenant_transaction(self._app_pool, await self._reader(headers)) as tx:
            return [policy_model(row) for row in await list_policies(tx)]

    async def policy(self, headers: Headers, name: str, version: int) -> PolicyDetail:
        """A version of a policy with its text; 0: the newest."""
        try:
            async with tenant_transaction(self._app_pool, await self._reader(headers)) as tx:
                row, content = await get_policy(tx, name, version)
        except PolicyNotFound as error:
            raise WireError(404, str(error)) from error
        return PolicyDetail(**policy_model(row).model_dump(), content=content)

    async def approvals(self, headers: Headers, name: str) -> ApprovalTypesModel:
        """Which jobs of a tenant wait for approval, for an administrator."""
        await self._authenticator.admin(headers)
        tenant = (await named_tenant(self._writer_pool, name)).id
        async with tenant_transaction(self._app_pool, tenant) as tx:
            types, own = await approval_types(tx)
        return ApprovalTypesModel(types=list(types), own=own)

    async def set_approvals(self, headers: Headers, name: str, types: list[str] | None) -> ApprovalTypesModel:
        """Gives a tenant a list of its own; who holds the tenant's keys cannot."""
        administrator = await self._authenticator.admin(headers)
        tenant = (await named_tenant(self._writer_pool, name)).id
        async with tenant_transaction(self._app_pool, tenant) as tx:
            await set_approval_types(tx, types, actor=administrator.key_id)
            found, own = await approval_types(tx)
        return ApprovalTypesModel(types=list(found), own=own)

    async def _reader(self, headers: Headers) -> TenantId:
        tenant, _ = await self._authenticator.tenant_principal(headers, "read")
        return tenant

    async def _operator(self, headers: Headers) -> tuple[TenantId, str]:
        tenant, principal = await self._authenticator.tenant_principal(headers, "operate")
        return tenant, principal.key_id
