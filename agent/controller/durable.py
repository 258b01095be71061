"""Files and links that are replaced whole and survive a loss of power: written aside, synced, renamed."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Puts a file with these bytes and this mode at `path`: afterwards it is there whole, or what was before is."""
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fchmod(stream.fileno(), mode)
        os.fsync(stream.fileno())
    os.replace(aside, path)
    sync_folder(path.parent)


def point_link(link: Path, target: str) -> None:
    """Makes `link` a symbolic link to `target` (relative to the link's folder), in one step whatever it was before."""
    aside = link.with_name(f".{link.name}.new")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    os.replace(aside, link)
    sync_folder(link.parent)


def link_target(link: Path) -> str | None:
    """Where the link points, None when there is none."""
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return None


def sync_folder(folder: Path) -> None:
    """Makes the folder's names durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_folder(folder: Path) -> Path:
    """The folder, made for this user alone where it was missing."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
