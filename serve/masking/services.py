"""What the server does about masking: the setting of a tenant, the key for an agent, and questions about tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from actors.rule_masking import RecordMasks, policy_name
from agent.masking import MaskingKey, default_policy
from detect.record import TenantId
from serve.auth import Authenticator
from serve.control.models import AgentMasking
from serve.errors import WireError
from serve.masking.keys import masking_key
from serve.masking.models import MaskingChange, MaskingModel, RevealAnswer, RevealedModel, RevealRequest
from serve.masking.reveal import reveal
from serve.named_tenant import named_tenant
from serve.services import RulesInForce
from serve.signing_keyring import SigningKeyring
from serve.signing_masters import MasterKeyError
from store.agents import AgentRow
from store.masking import (
    MaskingState,
    NoNewerMaster,
    agents_masking_otherwise,
    audit_reveal,
    masking_of_records,
    note_masking_of_agent,
    read_masking,
    set_masking,
)
from store.postgres import Pool, TenantTransaction, tenant_transaction
from store.values import iso_time

logger = structlog.get_logger("masking")

_RETRY_S = 30


class MaskingServices:
    """Wired once per replica. All methods raise WireError 401, 403, 422, 503."""

    def __init__(
        self,
        authenticator: Authenticator,
        app_pool: Pool,
        writer_pool: Pool,
        keyring: SigningKeyring,
        enforce_rules: RulesInForce,
    ) -> None:
        self._authenticator = authenticator
        self._app_pool = app_pool
        self._writer_pool = writer_pool
        self._keyring = keyring
        self._enforce_rules = enforce_rules
        # Trying 20,000 names takes a processor for a second: one after the other.
        self._one = asyncio.Lock()

    async def state(self, headers: Mapping[str, str], name: str) -> MaskingModel:
        """How a tenant masks, for an administrator; WireError 404."""
        await self._authenticator.admin(headers)
        tenant = (await named_tenant(self._writer_pool, name)).id
        async with tenant_transaction(self._app_pool, tenant) as tx:
            return await self._model(tx, await read_masking(tx))

    async def change(self, headers: Mapping[str, str], name: str, wanted: MaskingChange) -> MaskingModel:
        """Switches a tenant's masking, and makes its rules anew; WireError 404, 409 without a master for a new key."""
        administrator = await self._authenticator.admin(headers)
        tenant = (await named_tenant(self._writer_pool, name)).id
        if wanted.new_key and not wanted.enabled:
            raise WireError(422, "a new key is for switching masking on: leave new_key out, or set enabled")
        newest = self._keyring.newest_master() if wanted.enabled else 0
        try:
            async with tenant_transaction(self._app_pool, tenant) as tx:
                state = await set_masking(
                    tx, enabled=wanted.enabled, newest=newest, actor=administrator.key_id, new_key=wanted.new_key
                )
                if state.given is not None:  # agents could not be enrolled without it
                    _key(self._keyring, tenant, state.given)
                model = await self._model(tx, state)
        except NoNewerMaster as error:
            detail = f"{error}: make the next one with `trustsoc signing-key new-master`"
            raise WireError(409, detail, reason="no_newer_master") from error
        try:
            await self._enforce_rules(tenant)
        except Exception:  # the setting is made, whatever keeps the rules from following it
            logger.exception("rules are not masked yet: the housekeeping tries again", tenant=str(tenant))
        return model

    async def reveal(self, headers: Mapping[str, str], wanted: RevealRequest) -> RevealAnswer:
        """What tokens of the caller's tenant stand for; WireError 409 for a tenant that has never masked.

        The question is in the audit log before it is answered.
        """
        tenant, principal = await self._authenticator.tenant_principal(headers, "reveal")
        async with tenant_transaction(self._app_pool, tenant) as tx:
            state = await read_masking(tx)
        if not state.keys:
            raise WireError(409, "this tenant has never masked: it has no tokens", reason="not_masked")
        keys, missing = _keys(self._keyring, tenant, state.keys)
        if not keys:
            raise _missing(missing[0])
        async with self._one:
            found = await asyncio.to_thread(reveal, wanted.tokens, wanted.candidates, keys)
        # What is no token may be a clear value that was given by mistake: it is counted nowhere and written nowhere.
        tokens = list(dict.fromkeys(item.token for item in found if item.outcome != "no token"))
        revealed = len({item.token for item in found if item.clear})
        async with tenant_transaction(self._app_pool, tenant) as tx:
            await audit_reveal(
                tx,
                tokens,
                actor=principal.key_id,
                reason=wanted.reason,
                candidates=len(wanted.candidates),
                revealed=revealed,
            )
        items = [RevealedModel(token=one.token, outcome=one.outcome, clear=one.clear, key=one.key) for one in found]
        return RevealAnswer(items=items, missing_keys=missing)

    async def _model(self, tx: TenantTransaction, state: MaskingState) -> MaskingModel:
        found, _ = _keys(self._keyring, tx.tenant, () if state.master is None else (state.master,))
        return MaskingModel(
            enabled=state.enabled,
            key=state.master,
            fingerprint=found[0].fingerprint if found else None,
            keys=list(state.keys),
            agents_to_enrol=await agents_masking_otherwise(tx, state),
            changed_by=state.changed_by,
            changed_at=None if state.changed_at is None else iso_time(state.changed_at),
        )


async def key_for_agent(tx: TenantTransaction, keyring: SigningKeyring, agent: str) -> str | None:
    """The text of the masking key that an agent gets that is enrolled in this transaction; None: it masks nothing.

    Raises WireError 503 while the key's master is missing: an agent without the key would send clear values.
    """
    given = (await read_masking(tx)).given
    await note_masking_of_agent(tx, agent, given)
    return None if given is None else _key(keyring, tx.tenant, given).text


async def masking_of_agent(tx: TenantTransaction, keyring: SigningKeyring, agent: AgentRow) -> AgentMasking:
    """Whether an agent of the transaction's tenant masks as the tenant's rules are made for, by what it said last."""
    state = await read_masking(tx)
    said = agent.health.get("masking") or {}
    match said.get("state"):
        case "on":
            keys, missing = _keys(keyring, tx.tenant, state.keys)
            known = {key.fingerprint for key in keys}
            detail = _other_masking(str(said.get("policy")), str(said.get("key")), known, unsure=bool(missing))
            return AgentMasking(state="otherwise" if detail else "alike", detail=detail)
        case "off":
            detail = "the tenant masks, this host does not: enrol it again" if state.enabled else ""
            return AgentMasking(state="otherwise" if detail else "off", detail=detail)
        case _:
            return AgentMasking(state="unknown", detail="")


def _other_masking(policy: str, key: str, fingerprints: set[str], *, unsure: bool) -> str:
    """In what a host masks otherwise than the rules are made for; empty where it does not."""
    if policy != default_policy().digest:
        return "it masks by a policy of its own: rules may miss the names and addresses that they are about"
    if key not in fingerprints and not unsure:
        return "it masks by a key that the tenant never had: its tokens compare with no other host's"
    return ""


async def masks_of_records(tx: TenantTransaction, keyring: SigningKeyring) -> RecordMasks | None:
    """How records of the tenant are masked; None: nobody masks. Raises WireError 503 without a key."""
    found = await masking_of_records(tx)
    if found is None:
        return None
    masters = [int(word) for word in found.split() if word != "clear"]
    keys = tuple(_key(keyring, tx.tenant, master) for master in masters)
    return RecordMasks(keys, len(keys) < len(found.split()), f"{found} {policy_name()}")


def _keys(keyring: SigningKeyring, tenant: TenantId, masters: tuple[int, ...]) -> tuple[list[MaskingKey], list[int]]:
    """The keys that can be derived, and the numbers of those whose master is missing."""
    keys: list[MaskingKey] = []
    missing: list[int] = []
    for master in masters:
        try:
            keys.append(masking_key(keyring.masters(master), master, tenant))
        except MasterKeyError:
            missing.append(master)
    return keys, missing


def _key(keyring: SigningKeyring, tenant: TenantId, master: int) -> MaskingKey:
    try:
        return masking_key(keyring.masters(master), master, tenant)
    except MasterKeyError as error:
        raise _missing(master) from error


def _missing(master: int) -> WireError:
    detail = f"the masking key cannot be derived: put {master}.key back into the server's signing folder"
    return WireError(503, detail, retry_after_s=_RETRY_S, reason="masking_unavailable")
