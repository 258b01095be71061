"""Who sends: said by the headers, and confirmed by the body where the body is signed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from serve.auth import Authenticator
from serve.ingest.intake import Sender, agent_run


class AdmittedSender(Protocol):
    """A sender whose headers are in order."""

    @property
    def sender(self) -> Sender: ...

    async def confirm(self, body: bytes) -> None:
        """Raises WireError when the body, as it came, is not what this sender signed."""


class SenderCheck(Protocol):
    """What a door demands of its senders."""

    async def admit(self, headers: Mapping[str, str]) -> AdmittedSender:
        """Looks at the headers before the body is read; raises WireError."""


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """A sender whose key or certificate is all that is asked for."""

    sender: Sender

    async def confirm(self, body: bytes) -> None:
        """Whatever the holder of the key sends is the holder's."""


class KeyCheck:
    """Admits whoever holds a key or certificate with the scope `ingest`."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def admit(self, headers: Mapping[str, str]) -> KeyHolder:
        tenant, principal = await self._authenticator.tenant_principal(headers, "ingest")
        return KeyHolder(Sender(tenant, principal.key_id, agent_run(headers)))
