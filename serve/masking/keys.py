"""Masking keys of tenants: derived from the signing masters, so the database holds nothing that turns a token back."""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agent.masking.key import KEY_BYTES, MaskingKey
from detect.record import TenantId
from serve.signing_masters import MasterKeyError, SigningMasters


def masking_key(masters: SigningMasters, master: int, tenant: TenantId) -> MaskingKey:
    """The masking key that a tenant has by one master; its number is the master's.

    HKDF-SHA256 (RFC 5869). Raises MasterKeyError without the master. Which master a tenant masks by must be kept with
    the tenant and never follow the newest by itself: tokens of two keys do not compare.
    """
    if master not in masters.keys:
        raise MasterKeyError(f"master key {master} is missing: put {master}.key back into the signing folder")
    info = f"trustsoc masking key v1\n{tenant}".encode()
    derived = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(masters.keys[master])
    return MaskingKey(derived, master)
