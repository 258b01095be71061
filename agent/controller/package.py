"""Packages of the agent: who signed them, and how they are unpacked without leaving their folder."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agent.canonical import canonical

PACKAGE_CONTEXT: Final = b"TRUSTSOC-PACKAGE-V1\n"
VERSION_FORM: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6}){1,3}")
_MOST_FILES: Final = 20_000


class BadPackage(Exception):
    """The package is not what was signed, or holds what may not be unpacked."""


def package_message(version: str, digest: str, size: int) -> bytes:
    """What the publisher signs: version, hex SHA-256 and size of the archive."""
    return PACKAGE_CONTEXT + canonical({"version": version, "digest": digest, "size": size})


def sign_package(private_key: Ed25519PrivateKey, version: str, digest: str, size: int) -> str:
    """The publisher's signature in base64."""
    return base64.b64encode(private_key.sign(package_message(version, digest, size))).decode()


def check_signature(key: bytes, signature: str, version: str, digest: str, size: int) -> None:
    """Raises BadPackage unless the holder of the key (raw, 32 bytes) signed exactly this version, digest and size."""
    try:
        raw = base64.b64decode(signature, validate=True)
        Ed25519PublicKey.from_public_bytes(key).verify(raw, package_message(version, digest, size))
    except (InvalidSignature, ValueError) as error:
        raise BadPackage("the package is not signed by the upgrade key of this host's policy") from error


def check_content(stream: BinaryIO, digest: str, size: int) -> None:
    """Raises BadPackage unless the stream has this size and SHA-256; leaves it at its beginning."""
    hashed, seen = hashlib.sha256(), 0
    stream.seek(0)
    while chunk := stream.read(65_536):
        hashed.update(chunk)
        seen += len(chunk)
    stream.seek(0)
    if seen != size or hashed.hexdigest() != digest:
        raise BadPackage("what was fetched is not the package that was signed")


def unpack(stream: BinaryIO, folder: Path, most_bytes: int) -> None:
    """Unpacks a tar archive (gzip, xz or plain) into a new folder; nothing is left of one that fails.

    Raises BadPackage for more than `most_bytes` or 20,000 files, for devices, and for names and links that lead out.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755, parents=True)
    try:
        with tarfile.open(fileobj=stream, mode="r:*") as archive:
            total = 0
            for number, member in enumerate(archive):
                total += member.size
                if number >= _MOST_FILES or total > most_bytes:
                    raise BadPackage(f"the package holds more than {_MOST_FILES} files or {most_bytes} bytes")
                archive.extract(member, folder, filter="data")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise BadPackage(f"the package cannot be unpacked: {error}") from error
    except BadPackage:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _sync_tree(folder)


def is_newer(version: str, than: str) -> bool:
    """Whether a version comes after another; after what has no such form, every one does."""
    if not VERSION_FORM.fullmatch(than):
        return True
    one, other = ([int(part) for part in text.split(".")] for text in (version, than))
    longest = max(len(one), len(other))
    return one + [0] * (longest - len(one)) > other + [0] * (longest - len(other))


def _sync_tree(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in (".", *names):
            path = os.path.join(place, name)
            if os.path.islink(path):
                continue
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
