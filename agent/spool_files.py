"""Writing files so that they are whole or not there, and holding a folder for one process."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


def hold(path: Path) -> int:
    """Locks the file until its descriptor is closed or the process ends. Raises BlockingIOError, OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise BlockingIOError(error.errno, f"another process holds {path}: stop it first") from error
    return descriptor


def make_folder(folder: Path) -> None:
    """Makes the folder (for its owner alone) and its parents, where they are missing, durably. Raises OSError."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The folder's own name too when it was there: a life that was killed may have made it a moment ago.
    for place in {folder, *missing}:
        with contextlib.suppress(PermissionError):  # a parent that we may pass and not list is not of our making
            sync_folder(place.parent)


def sync_folder(folder: Path) -> None:
    """Makes names in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes) -> None:
    """Replaces the file, readable by its owner alone, durably but for its name (sync_folder). Raises OSError."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_at(descriptor: int, content: bytes, offset: int) -> None:
    """Writes all of it. Raises OSError when only a part, or nothing, was written."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def cut_at(path: Path, end: int) -> None:
    """Cuts the file there; what is before is durable then, also what another process wrote. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, end)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
