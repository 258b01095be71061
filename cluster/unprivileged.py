"""Running a server as an unprivileged user when we are root, and the files and folders that go with it."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class UnprivilegedUserError(Exception):
    """There is no fit user to run a server as; the message says what to do."""


@dataclass(frozen=True, slots=True)
class RunAs:
    """The user that a server runs as."""

    name: str
    uid: int
    gid: int

    def can_reach(self, folder: Path) -> bool:
        """Whether the mode bits let this user pass through the folder and all above it."""
        resolved = folder.resolve()
        return all(self._may_enter(os.stat(step)) for step in (resolved, *resolved.parents))

    def _may_enter(self, found: os.stat_result) -> bool:
        if found.st_uid == self.uid:
            return bool(found.st_mode & stat.S_IXUSR)
        if found.st_gid == self.gid:
            return bool(found.st_mode & stat.S_IXGRP)
        return bool(found.st_mode & stat.S_IXOTH)


def find_user(name: str) -> RunAs | None:
    """Whom to run a server as: `name` when we are root, None (ourselves) when not. Raises UnprivilegedUserError."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise UnprivilegedUserError(
            f"this server does not run as root and there is no user {name!r} to run it as: name an unprivileged user"
        ) from None
    if entry.pw_uid == 0:
        raise UnprivilegedUserError(f"this server does not run as root, and {name!r} is root: name another user")
    return RunAs(name, entry.pw_uid, entry.pw_gid)


def identity(run_as: RunAs | None) -> dict[str, Any]:
    """The arguments of subprocess that change the user and drop every supplementary group."""
    return {} if run_as is None else {"user": run_as.uid, "group": run_as.gid, "extra_groups": []}


def plain_environment() -> dict[str, str]:
    """An environment without the caller's secrets, locale and PG* settings."""
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def make_folder(path: Path) -> None:
    """Makes a folder and what is missing above it with mode 0711; leaves the mode of what exists alone."""
    for step in (*reversed(path.parents), path):
        try:
            step.mkdir(mode=0o700)
        except FileExistsError:
            continue
        step.chmod(0o711)  # not by mkdir: the umask would take bits away


def give(path: Path, run_as: RunAs | None, mode: int) -> None:
    """Sets the mode, and the owner when there is one to give it to."""
    path.chmod(mode)
    if run_as is not None:
        os.chown(path, run_as.uid, run_as.gid)


def write_private(path: Path, content: str) -> None:
    """Replaces a file's content in one step; nobody but the owner can ever read it (0600)."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
