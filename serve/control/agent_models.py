"""What agents send to the Control API, as models: strict and bounded; of itself alone may one say the unknown."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MOST_PULL_BYTES = 32_768
MOST_RESULT_BYTES = 1_310_720  # a result of 512 KiB as text in JSON
MOST_OUTPUT_BYTES = 524_288
MOST_FILE_BODY_BYTES = 2_097_152
MOST_CHUNK_CHARACTERS = 1_400_000  # a mebibyte in base64
MOST_CERTIFICATE_BYTES = 32_768

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[ -~]{1,64}$")]
Text = Annotated[str, StringConstraints(max_length=2000)]
Count = Annotated[int, Field(ge=-(2**53), le=2**53)]


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _OfItself(BaseModel):
    """What a newer agent says besides is passed over: a refusal would shut it out, also from the job that mends it."""

    model_config = ConfigDict(extra="ignore")


class ConfigHealth(_OfItself):
    """Which configuration runs, and which was tried last; digests in hex, empty for none."""

    running: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    attempted: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    state: Literal["", "applied", "applying", "failed"] = ""
    detail: Text = ""


class MaskingHealth(_OfItself):
    """Whether the host masks what it sends: by the policy of that SHA-256 and the key with that fingerprint."""

    state: Literal["", "off", "on"] = ""
    policy: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    key: str = Field(default="", pattern=r"^([0-9a-f]{16})?$")


class Health(_OfItself):
    """How an agent is, in its own words. `started_at` in ms since the epoch, `lag_s` how old what waits there is."""

    version: Name
    started_at: int = Field(ge=0, le=2**53)
    status: Literal["ok", "degraded", "failing"]
    detail: Text = ""
    lag_s: float = Field(default=0, ge=0, le=1e9, allow_inf_nan=False)
    spool: dict[Name, Count] = Field(default_factory=dict, max_length=64)
    config: ConfigHealth = Field(default_factory=ConfigHealth)
    masking: MaskingHealth = Field(default_factory=MaskingHealth)
    labels: dict[Name, Annotated[str, StringConstraints(max_length=200)]] = Field(default_factory=dict, max_length=32)


class PullRequest(_Said):
    """Asks for at most `most` jobs and waits up to `wait_s` seconds for the first."""

    wait_s: float = Field(default=0, ge=0, le=30, allow_inf_nan=False)
    most: int = Field(default=1, ge=1, le=16)
    health: Health


class SignedResult(_Said):
    """A result in canonical JSON, and its signature in base64."""

    result: str = Field(max_length=MOST_RESULT_BYTES)
    signature: str = Field(max_length=128)


class OutputPart(_Said):
    """What a job printed from the character `offset` on; empty to say that it is at work."""

    job: UUID
    lease: UUID
    offset: int = Field(ge=0, le=2**31)
    data: str = Field(max_length=MOST_OUTPUT_BYTES)


class FilePart(_Said):
    """A part of a collected file from the byte `offset` on, in base64, with size and SHA-256 (hex) of the whole."""

    job: UUID
    lease: UUID
    path: str = Field(min_length=1, max_length=4096)
    size: int = Field(ge=0, le=2**53)
    digest: Digest
    offset: int = Field(ge=0, le=2**53)
    data: str = Field(max_length=MOST_CHUNK_CHARACTERS)


class CertificateRequest(_Said):
    """A request for the certificate of a CERT_ROTATE job."""

    csr: str = Field(max_length=16_384)
    job: UUID
