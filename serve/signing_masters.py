"""The master keys from which every sender's signing secret is derived: files outside the database, one a version.

A folder holds `1.key`, `2.key`, ...: 32 random bytes as 64 hex digits. The highest number makes new keys; all verify,
so a master is rotated by adding a file and taking the old one away when no key names it any more. On Kubernetes the
folder is a mounted Secret.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from detect.record import TenantId

_BYTES = 32
_FILE = re.compile(r"([1-9][0-9]{0,5})\.key")


class MasterKeyError(Exception):
    """The master keys cannot be used: none is there, one is damaged, or others can read it."""


@dataclass(frozen=True, slots=True)
class SigningMasters:
    """The master keys of an installation by number; repr() hides them."""

    keys: Mapping[int, bytes]

    @property
    def newest(self) -> int:
        """The number of the master that new signing keys derive from."""
        return max(self.keys)

    def secret_text(self, master: int, tenant: TenantId, key_id: str) -> str:
        """The secret of a signing key: `tss_`, its id, `_` and 43 characters. Raises MasterKeyError without the master.

        HKDF-SHA256 (RFC 5869) of the master with tenant and key id as its info.
        """
        if master not in self.keys:
            raise MasterKeyError(f"master key {master} is missing: put {master}.key back into the signing folder")
        info = f"trustsoc signing key v1\n{tenant}\n{key_id}".encode()
        derived = HKDF(algorithm=SHA256(), length=_BYTES, salt=None, info=info).derive(self.keys[master])
        return f"tss_{key_id}_{base64.urlsafe_b64encode(derived).decode().rstrip('=')}"

    def __repr__(self) -> str:
        return f"SigningMasters({sorted(self.keys)})"


def load_masters(folder: Path) -> SigningMasters:
    """Reads the folder. Raises MasterKeyError when there is no key, or one that is damaged or open to others."""
    try:
        found = {int(match[1]): path for path in folder.iterdir() if (match := _FILE.fullmatch(path.name))}
        keys = {number: _read(path) for number, path in found.items()}
    except OSError as error:
        raise MasterKeyError(f"cannot read the signing folder {folder} ({error.strerror})") from error
    if not keys:
        raise MasterKeyError(f"{folder} holds no master key: `trustsoc signing-key new-master` makes one")
    return SigningMasters(keys)


def add_master(folder: Path) -> int:
    """Makes the next master key, from which new signing keys derive from now on; returns its number."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    number = max((int(match[1]) for path in folder.iterdir() if (match := _FILE.fullmatch(path.name))), default=0) + 1
    descriptor = os.open(folder / f"{number}.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return number


def ensure_master(folder: Path) -> None:
    """Makes the first master key unless there is one."""
    if not folder.is_dir() or not any(_FILE.fullmatch(path.name) for path in folder.iterdir()):
        add_master(folder)


def _read(path: Path) -> bytes:
    # Others, not the group: a Secret mounted for a user that is not root is readable by the pod's group.
    if stat.S_IMODE(path.stat().st_mode) & 0o007:
        raise MasterKeyError(f"{path} is a master key and can be read by others: run `chmod 600 {path}`")
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError as error:
        raise MasterKeyError(f"{path} is damaged: it must hold {_BYTES * 2} hex digits") from error
    if len(key) != _BYTES:
        raise MasterKeyError(f"{path} is damaged: it must hold {_BYTES * 2} hex digits")
    return key
