"""The list of a backup's contents, `manifest.json`: what it holds, of when, and the SHA-256 of every file.

Layout of a backup: `manifest.json`, `manifest.sha256`, `database/` (pg_dump, directory format), `files/` (what lies
in the data directory beside the database). Folders have mode 0700, files 0600: it holds keys.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from store.backups import DatabaseFacts

FORMAT = 1
MANIFEST = "manifest.json"
_DIGEST = "manifest.sha256"
_CHUNK = 2**20


class BackupError(Exception):
    """A backup cannot be made, read or restored; the message says what to do."""


class BackupFile(msgspec.Struct, frozen=True):
    """One file: its size in bytes and its SHA-256 in hex."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What a backup holds. Times are RFC 3339 in UTC; `left_out` names what of the data directory is not in it."""

    format: int
    version: str
    created_at: str
    database: DatabaseFacts
    files: dict[str, BackupFile]
    left_out: dict[str, str]

    @property
    def bytes(self) -> int:
        """The size of all files together."""
        return sum(file.bytes for file in self.files.values())


def measure(folder: Path) -> dict[str, BackupFile]:
    """Every file below a folder by its path in it; makes all of it private and durable on the way."""
    found = {}
    for path in sorted(_walk(folder)):
        if path.is_dir():
            path.chmod(0o700)
        else:
            path.chmod(0o600)
            found[str(path.relative_to(folder))] = digest_of(path)
            _sync(path)
    return found


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Puts the manifest, and the digest of its own bytes, beside what it lists."""
    content = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    for name, text in ((MANIFEST, content), (_DIGEST, hashlib.sha256(content).hexdigest().encode() + b"\n")):
        path = folder / name
        path.touch(mode=0o600)
        path.write_bytes(text)
        _sync(path)
    _sync(folder)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup. Raises BackupError for a folder that is none, or one that is damaged or newer."""
    try:
        content = (folder / MANIFEST).read_bytes()
        stated = (folder / _DIGEST).read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise BackupError(f"{folder} is no whole backup ({error.strerror}: {error.filename})") from error
    if hashlib.sha256(content).hexdigest() != stated:
        raise BackupError(f"{folder / MANIFEST} is damaged: its SHA-256 is not the one in {_DIGEST}")
    try:
        stated_format = msgspec.json.decode(content)["format"]
        if stated_format != FORMAT:
            raise BackupError(
                f"the backup has format {stated_format}, this version reads {FORMAT}: use its own version"
            )
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise BackupError(f"{folder / MANIFEST} cannot be read: {error}") from error


def verify(folder: Path, manifest: Manifest) -> None:
    """Reads every file again. Raises BackupError naming the first that is missing, damaged or not in the list."""
    present = {str(path.relative_to(folder)) for path in _walk(folder) if not path.is_dir()} - {MANIFEST, _DIGEST}
    if strangers := sorted(present - manifest.files.keys()):
        raise BackupError(f"{folder / strangers[0]} is not in the manifest: is it a file of the backup?")
    for name, stated in manifest.files.items():
        if name not in present:
            raise BackupError(f"{folder / name} is missing: the backup is not whole")
        if digest_of(folder / name) != stated:
            raise BackupError(f"{folder / name} is damaged: its SHA-256 is not the one in the manifest")


def digest_of(path: Path) -> BackupFile:
    """Size and digest of a file, read in pieces."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return BackupFile(size, digest.hexdigest())


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise BackupError(f"{path} is neither a file nor a folder: a backup holds nothing else")
        yield path


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
