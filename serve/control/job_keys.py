"""The keys that sign jobs: Ed25519, in files outside the database, one a number.

A folder holds `1.key`, `2.key`, ...: the 32 private bytes as 64 hex digits. The highest number signs, and the public
halves of the two highest are handed out, so a key is rotated by adding a file. Agents learn of the new one by a
statement that the older of the two signs, which they hold already. Whoever can write to the database can therefore make
no agent obey. On Kubernetes the folder is a mounted Secret.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.jobs import JobKeys, sign_keys
from serve.errors import WireError

logger = structlog.get_logger("jobs")

_BYTES = 32
_FILE = re.compile(r"([1-9][0-9]{0,5})\.key")
_RETRY_S = 30
_HANDED_OUT = 2


class JobKeyError(Exception):
    """The job keys cannot be used: none is there, one is damaged, or others can read it."""


@dataclass(frozen=True, slots=True)
class JobKey:
    """One job key; repr() hides the private half. `made_ms` is when its file was written."""

    number: int
    private: Ed25519PrivateKey
    made_ms: int

    @property
    def public(self) -> bytes:
        """The raw public half, 32 bytes."""
        return self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def key_id(self) -> str:
        """The name by which agents pin it: its number and the start of the public half's SHA-256."""
        return f"job-{self.number}-{hashlib.sha256(self.public).hexdigest()[:12]}"

    def __repr__(self) -> str:
        return f"JobKey({self.key_id!r})"


@dataclass(frozen=True, slots=True)
class JobKeyRing:
    """The keys in use, the newest first; one or two."""

    keys: tuple[JobKey, ...]

    @property
    def signer(self) -> JobKey:
        """The key that signs jobs now."""
        return self.keys[0]

    @property
    def pinned(self) -> dict[str, bytes]:
        """What agents pin: raw public halves by key id."""
        return {key.key_id: key.public for key in self.keys}

    def listed(self) -> list[dict[str, str]]:
        """The same for JSON, the newest first."""
        return [{"key_id": name, "public_key": base64.b64encode(raw).decode()} for name, raw in self.pinned.items()]

    def statement(self) -> dict[str, str]:
        """What to pin from now on, signed by the oldest of these keys, for agents that hold that one."""
        newest, oldest = self.keys[0], self.keys[-1]
        keys = JobKeys(newest.number, newest.made_ms, self.pinned, oldest.key_id)
        text, signature = sign_keys(oldest.private, keys)
        return {"statement": text, "signature": signature}


class HeldJobKeys:
    """The ring of a replica, read again when the folder was changed, at most every `keep_s` seconds."""

    def __init__(self, folder: Path, clock: Callable[[], float], keep_s: float = 5.0) -> None:
        self._folder = folder
        self._clock = clock
        self._keep_s = keep_s
        self._until = 0.0
        self._seen: Mapping[int, int] = {}
        self._ring: JobKeyRing | None = None
        self._statement: dict[str, str] = {}

    def ring(self) -> JobKeyRing:
        """The keys in use; raises WireError 503 while they cannot be used."""
        if self._ring is None or self._clock() >= self._until:
            try:
                seen = {number: path.stat().st_mtime_ns for number, path in _files(self._folder).items()}
                if self._ring is None or seen != self._seen:
                    self._ring = load_job_keys(self._folder)
                    self._statement = self._ring.statement()
                    self._seen = seen
            except (JobKeyError, OSError) as error:
                logger.error("the job keys cannot be used", error=str(error))
                detail = "the server cannot sign jobs now: retry later"
                raise WireError(503, detail, retry_after_s=_RETRY_S, reason="job_keys_unavailable") from error
            self._until = self._clock() + self._keep_s
        return self._ring

    def statement(self) -> dict[str, str]:
        """The signed statement of the keys in use; raises WireError 503."""
        self.ring()
        return self._statement


def load_job_keys(folder: Path) -> JobKeyRing:
    """The two newest keys. Raises JobKeyError when there is none, or one is damaged or open to others."""
    try:
        found = sorted(_files(folder).items(), reverse=True)[:_HANDED_OUT]
        keys = tuple(_read(number, path) for number, path in found)
    except OSError as error:
        raise JobKeyError(f"cannot read the folder of job keys {folder} ({error.strerror})") from error
    if not keys:
        raise JobKeyError(f"{folder} holds no job key: `trustsoc job new-key` makes one")
    return JobKeyRing(keys)


def add_job_key(folder: Path) -> int:
    """Makes the next job key, which signs from now on; returns its number."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    number = max(_files(folder), default=0) + 1
    _make(folder, number)
    return number


def ensure_job_key(folder: Path) -> None:
    """Makes the first job key unless there is one; several replicas may do so at once."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _files(folder):
        try:
            _make(folder, 1)
        except FileExistsError:
            return


def _make(folder: Path, number: int) -> None:
    # Written whole under another name and then linked: nobody reads half a key, and of two makers one wins.
    temporary = folder / f".{number}.{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, folder / f"{number}.key")
    finally:
        temporary.unlink()


def _files(folder: Path) -> dict[int, Path]:
    return {int(match[1]): path for path in folder.iterdir() if (match := _FILE.fullmatch(path.name))}


def _read(number: int, path: Path) -> JobKey:
    # Others, not the group: a Secret mounted for a user that is not root is readable by the pod's group.
    state = path.stat()
    if stat.S_IMODE(state.st_mode) & 0o007:
        raise JobKeyError(f"{path} is a private key and can be read by others: run `chmod 600 {path}`")
    try:
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text(encoding="ascii").strip()))
    except ValueError as error:
        raise JobKeyError(f"{path} is damaged: it must hold {_BYTES * 2} hex digits") from error
    return JobKey(number, private, state.st_mtime_ns // 1_000_000)
