"""Who this agent is, in files of its folder: names, addresses, signing key, result key, pinned job keys, certificates.

`identity.json`, `signing_key.json`, `result.key`, `job_keys.json`; `tls/authority.pem` and `tls/current`, a link to the
folder with the `key.pem` and `certificate.pem` that are in use; `masking.key` where the tenant masks. All of it is this
user's alone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from agent.contract import SigningKey
from agent.controller.durable import link_target, point_link, private_folder, write_whole
from agent.jobs import JobKeys, JobRefused, public_key, verify_keys


class IdentityError(Exception):
    """The agent has no usable identity here; the message names the file and what to do."""


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """The names and addresses that the server gave at enrolment. Addresses are base URLs."""

    tenant: UUID
    tenant_name: str
    agent: str
    ingest: str
    control: str
    poll_s: int

    @property
    def uri(self) -> str:
        """The name in the agent's certificate."""
        return f"trustsoc://tenant/{self.tenant}/agent/{self.agent}"


class IdentityFolder:
    """The files of one agent's identity. Every reading raises IdentityError where a file is missing or damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def authority(self) -> Path:
        """The certificate of the authority that the server's certificate must come from."""
        return self.folder / "tls" / "authority.pem"

    @property
    def masking_key(self) -> Path:
        """The tenant's masking key, as agent.masking.read_key reads it; missing where the tenant does not mask."""
        return self.folder / "masking.key"

    @property
    def current(self) -> Path:
        """The link to the folder of the pair in use."""
        return self.folder / "tls" / "current"

    def pair_folder(self, name: str) -> Path:
        """The folder of the pair of that name, in use or not."""
        return self.folder / "tls" / name

    def write(
        self,
        identity: AgentIdentity,
        *,
        signing_key: SigningKey,
        result_key: Ed25519PrivateKey,
        job_keys: Mapping[str, bytes],
        authority: bytes,
        masking_key: str | None = None,
    ) -> None:
        """Keeps a new identity, without its certificate (`add_pair` and `use_pair`). `job_keys` are raw.

        Without a masking key one of an identity before is taken away: its tokens would compare with nobody's.
        """
        private_folder(self.folder)
        private_folder(self.folder / "tls")
        secret = result_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_whole(self.folder / "result.key", secret)
        write_whole(self.authority, authority)
        if masking_key is None:
            self.masking_key.unlink(missing_ok=True)
        else:
            write_whole(self.masking_key, f"{masking_key}\n".encode("ascii"))
        self.use_signing_key(signing_key)
        self._write_job_keys(0, job_keys)
        names = {"tenant": str(identity.tenant), "tenant_name": identity.tenant_name, "agent": identity.agent}
        urls = {"ingest": identity.ingest, "control": identity.control, "poll_s": identity.poll_s}
        self._write("identity.json", names | urls)

    def read(self) -> AgentIdentity:
        """Names and addresses."""
        value = self._read("identity.json")
        try:
            return AgentIdentity(**(value | {"tenant": UUID(value["tenant"])}))
        except (KeyError, TypeError, ValueError) as error:
            raise IdentityError(f"{self.folder / 'identity.json'} is damaged: enrol the agent again") from error

    def signing_key(self) -> SigningKey:
        """The key that signs requests."""
        value = self._read("signing_key.json")
        key_id, secret = value.get("key_id"), value.get("secret")
        if not (isinstance(key_id, str) and key_id and isinstance(secret, str) and secret):
            raise IdentityError(f"{self.folder / 'signing_key.json'} must state key_id and secret of a signing key")
        return SigningKey(key_id, secret)

    def use_signing_key(self, key: SigningKey) -> None:
        """Keeps another key that signs requests, in the place of the one before."""
        self._write("signing_key.json", {"key_id": key.key_id, "secret": key.secret})

    def result_key(self) -> Ed25519PrivateKey:
        """The key that signs results."""
        path = self.folder / "result.key"
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError) as error:
            raise IdentityError(f"{path} cannot be read: enrol the agent again") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise IdentityError(f"{path} is not an Ed25519 key")
        return key

    def job_keys(self) -> tuple[int, dict[str, Ed25519PublicKey]]:
        """The serial and the pinned keys by id."""
        value = self._read("job_keys.json")
        try:
            keys = {name: public_key(base64.b64decode(raw)) for name, raw in value["keys"].items()}
            return int(value["serial"]), keys
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IdentityError(f"{self.folder / 'job_keys.json'} is damaged: enrol the agent again") from error

    def take_job_keys(self, statement: str, signature: str) -> JobKeys | None:
        """Pins the keys of a statement that a pinned key signed; None when it is the one known already.

        Raises JobRefused for any other.
        """
        serial, pinned = self.job_keys()
        try:
            keys = verify_keys(statement.encode("utf-8", "replace"), signature, pinned, serial)
        except JobRefused as refusal:
            if refusal.reason == "stale":
                return None
            raise
        self._write_job_keys(keys.serial, keys.keys)
        return keys

    def add_pair(self, name: str, key: bytes, certificate: bytes) -> Path:
        """Keeps a key and its certificate (PEM) beside those in use."""
        folder = private_folder(self.pair_folder(name))
        write_whole(folder / "key.pem", key)
        write_whole(folder / "certificate.pem", certificate)
        return folder

    def use_pair(self, name: str) -> None:
        """Makes the pair of that name the one in use, in one step."""
        point_link(self.current, name)

    def pair_in_use(self) -> str | None:
        """The name of the pair in use."""
        return link_target(self.current)

    def _write_job_keys(self, serial: int, keys: Mapping[str, bytes]) -> None:
        texts = {name: base64.b64encode(raw).decode() for name, raw in keys.items()}
        self._write("job_keys.json", {"serial": serial, "keys": texts})

    def _write(self, name: str, value: dict[str, Any]) -> None:
        write_whole(self.folder / name, json.dumps(value, indent=1).encode() + b"\n")

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            value = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise IdentityError(f"{path} cannot be read ({type(error).__name__}): enrol the agent") from error
        if not isinstance(value, dict):
            raise IdentityError(f"{path} is damaged: enrol the agent again")
        return value
