"""The types of jobs and the arguments of each, checked before anybody is asked to approve them.

The agent checks them again, against the policy of its host: what is refused here would be rejected there.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from agent.canonical import NotCanonical, canonical
from agent.jobs import JobType
from serve.errors import WireError
from store.agent_policies import PolicyNotFound, get_policy
from store.postgres import TenantTransaction

MOST_ARGS_BYTES: Final = 32_768


def _one_address(value: str) -> str:
    return str(ipaddress.ip_address(value))


def _absolute(value: str) -> str:
    if not value.startswith("/") or "\0" in value:
        raise ValueError("must be an absolute path")
    return value


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PingArguments(_Arguments):
    """`echo` comes back."""

    echo: str = Field(default="", max_length=1024)


class NoArguments(_Arguments):
    """Nothing to say: RULES_RELOAD, CERT_ROTATE."""


class UpdateConfigArguments(_Arguments):
    """A version of a policy; without one the newest. The digest is the server's to fill in."""

    policy: str = Field(min_length=1, max_length=200)
    version: int = Field(default=0, ge=0)
    digest: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")


class UpgradeArguments(_Arguments):
    """A package: its SHA-256 in hex, size in bytes, and the publisher's signature of them and the version, base64."""

    version: str = Field(pattern=r"^[0-9]{1,6}(\.[0-9]{1,6}){1,3}$")
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=1, le=2**40)
    signature: str = Field(pattern=r"^[A-Za-z0-9+/]{86}==$")


class CollectFileArguments(_Arguments):
    """One file, of at most so many bytes where that is less than the host allows."""

    path: Annotated[str, AfterValidator(_absolute)] = Field(min_length=2, max_length=4096)
    most_bytes: int | None = Field(default=None, ge=1, le=2**40)


class BlockIpArguments(_Arguments):
    """One address, for so many seconds."""

    address: Annotated[str, AfterValidator(_one_address)] = Field(max_length=64)
    seconds: int = Field(ge=1, le=2_592_000)


ARGUMENTS: Final[dict[JobType, type[BaseModel]]] = {
    "PING": PingArguments,
    "RULES_RELOAD": NoArguments,
    "UPDATE_CONFIG": UpdateConfigArguments,
    "CERT_ROTATE": NoArguments,
    "UPGRADE": UpgradeArguments,
    "COLLECT_FILE": CollectFileArguments,
    "BLOCK_IP": BlockIpArguments,
}


async def checked_arguments(tx: TenantTransaction, kind: JobType, given: dict[str, Any]) -> str:
    """The arguments of a job in canonical JSON, complete. Raises WireError 422."""
    try:
        read = ARGUMENTS[kind].model_validate(given)
    except ValidationError as error:
        parts = [f"args.{'.'.join(str(step) for step in item['loc'])}: {item['msg']}" for item in error.errors()]
        raise WireError(422, f"{kind}: {'; '.join(parts)}"[:500], field="args") from error
    if isinstance(read, UpdateConfigArguments):
        args = await _named_policy(tx, read)
    else:
        args = read.model_dump(exclude_none=True, exclude_unset=True)
    try:
        return canonical(args, most_bytes=MOST_ARGS_BYTES).decode()
    except NotCanonical as error:
        raise WireError(422, f"args: {error}", field="args") from error


async def _named_policy(tx: TenantTransaction, wanted: UpdateConfigArguments) -> dict[str, Any]:
    try:
        row, _ = await get_policy(tx, wanted.policy, wanted.version)
    except PolicyNotFound as error:
        raise WireError(422, f"{error}: add it first", field="args") from error
    if wanted.digest and wanted.digest != row.digest:
        raise WireError(422, f"policy {row.name} version {row.version} has the digest {row.digest}", field="args")
    return {"policy": row.name, "version": row.version, "digest": row.digest}
