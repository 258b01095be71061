"""Enrolment: a one-time token and a certificate request become an agent with all that it needs, in one transaction."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from serve.control.certificate_signer import CertificateSigner, IssuedCertificate, read_request
from serve.control.job_keys import HeldJobKeys
from serve.errors import WireError
from serve.masking.services import key_for_agent
from serve.peer import PeerIdentity
from serve.signing_keyring import SigningKeyring
from store.agents import CertificateRow, record_certificate
from store.agents_enrolment import AgentNameTaken, Enrolment, TokenRefused, enrol_agent, tenant_of_token
from store.postgres import Pool, tenant_transaction
from store.signing_keys import get_signing_key
from store.tenants import own_tenant

POLL_S = 30


class EnrolmentRequest(BaseModel):
    """What a host sends that wants to be an agent. Its private keys stay with it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    token: str = Field(max_length=128)
    csr: str = Field(max_length=16_384, description="A certificate request, PEM; a key on P-256, P-384 or Ed25519.")
    agent: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="The name that it wants.")
    result_key: str = Field(max_length=64, description="The raw Ed25519 public key of its results, base64.")
    version: str = Field(min_length=1, max_length=64, pattern=r"^[ -~]+$")
    platform: str = Field(default="", max_length=256, pattern=r"^[ -~]*$")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The base addresses that agents are told."""

    ingest: str
    control: str


class EnrolmentDesk:
    """Enrols agents. Wired once per replica."""

    def __init__(
        self,
        app_pool: Pool,
        keyring: SigningKeyring,
        signer: CertificateSigner,
        job_keys: HeldJobKeys,
        endpoints: Endpoints,
    ) -> None:
        self._app_pool = app_pool
        self._keyring = keyring
        self._signer = signer
        self._job_keys = job_keys
        self._endpoints = endpoints

    async def enrol(self, wanted: EnrolmentRequest) -> dict[str, Any]:
        """The answer to a good request; the token is spent with it, or not at all.

        Raises WireError 401 for the token, 409 for the name, 422 for key or request, 503.
        """
        result_key = raw_key(wanted.result_key)
        request = read_request(wanted.csr)
        master, ring, authority = self._keyring.newest_master(), self._job_keys.ring(), self._signer.authority()
        said = Enrolment(wanted.agent, result_key, wanted.version, wanted.platform)
        try:
            tenant, token_id = await tenant_of_token(self._app_pool, wanted.token)
            async with tenant_transaction(self._app_pool, tenant) as tx:
                agent = await enrol_agent(tx, token_id, said, master=master)
                masking = await key_for_agent(tx, self._keyring, agent.agent)
                name = (await own_tenant(tx)).name
                issued = await self._signer.sign(request, name, PeerIdentity(tenant, agent.agent), datetime.now(UTC))
                await record_certificate(tx, agent.agent, certificate_row(issued), actor=agent.enrolled_by)
                key = await get_signing_key(tx, agent.signing_key)
                if key is None:
                    raise WireError(503, "the signing key is not there yet", reason="signing_unavailable")
                secret = self._keyring.secret_of(tenant, key)
        except TokenRefused as error:
            raise WireError(401, f"{error}: ask your administrator for a new one", reason="token_refused") from error
        except AgentNameTaken as error:
            raise WireError(409, str(error), reason="name_taken") from error
        answer: dict[str, Any] = {} if masking is None else {"masking_key": masking}
        return answer | {
            "tenant": str(tenant),
            "tenant_name": name,
            "agent": agent.agent,
            "certificate": issued.pem,
            "authority": authority,
            "signing_key": {"key_id": key.key_id, "secret": secret},
            "job_keys": ring.listed(),
            "endpoints": {"ingest": self._endpoints.ingest, "control": self._endpoints.control},
            "poll_s": POLL_S,
        }


def certificate_row(issued: IssuedCertificate) -> CertificateRow:
    """What is remembered of a certificate."""
    return CertificateRow(issued.serial, issued.begins, issued.ends, None)


def raw_key(text: str) -> bytes:
    """The 32 raw bytes of a public key in base64; raises WireError 422."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError(422, "result_key is not base64", field="result_key") from error
    if len(raw) != 32:
        raise WireError(422, "result_key must be the 32 raw bytes of an Ed25519 public key", field="result_key")
    return raw
