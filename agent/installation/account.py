"""The account that the agent runs as: what it keeps must be its own, also when root enrols it."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.installation.places import InstallationError

USER: Final = "trustsoc-agent"
PROGRAMS: Final = (Path(__file__), Path(os.__file__), Path(sys.executable))
"""What the account must be able to read: the agent, its libraries, its interpreter."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account of this host."""

    name: str
    uid: int
    gid: int


def account_of(user: str) -> Account | None:
    """The account that root shall act as: that of the name, or `trustsoc-agent` where there is one; else nobody else's.

    Raises InstallationError.
    """
    try:
        found = pwd.getpwnam(user or USER)
    except KeyError as error:
        if not user:
            return None
        raise InstallationError(f"there is no account {user} here: `useradd --system {user}` makes it") from error
    if os.geteuid() not in (0, found.pw_uid):
        if not user:
            return None
        raise InstallationError(f"only root can enrol for {user}")
    return Account(found.pw_name, found.pw_uid, found.pw_gid)


@contextmanager
def acting_as(account: Account | None) -> Iterator[None]:
    """Files that are made meanwhile belong to the account, and to nobody else's reading."""
    mask = os.umask(0o077)
    change = account is not None and account.uid != os.geteuid()
    uid, gid, groups = os.geteuid(), os.getegid(), os.getgroups() if change else []
    try:
        if change and account is not None:
            os.setgroups(os.getgrouplist(account.name, account.gid))
            os.setegid(account.gid)
            os.seteuid(account.uid)
        yield
    finally:
        if change:
            os.seteuid(uid)
            os.setegid(gid)
            os.setgroups(groups)
        os.umask(mask)


def unreadable_programs(account: Account | None) -> str:
    """Those of the programs that the account cannot read, by comma; empty when it can read all of them."""
    with acting_as(account):
        return ", ".join(str(path) for path in PROGRAMS if not os.access(path, os.R_OK, effective_ids=True))


def provide_folders(settings: Path, state: Path, account: Account | None) -> None:
    """Makes the two folders where they are missing: everybody reads the settings, the account alone its state.

    Raises OSError.
    """
    if not settings.exists():
        settings.mkdir(parents=True)
        settings.chmod(0o755)
    if not state.exists():
        state.parent.mkdir(parents=True, exist_ok=True)
        state.mkdir(mode=0o700)
        if account is not None and account.uid != os.geteuid():
            os.chown(state, account.uid, account.gid, follow_symlinks=False)


def owner_of(folder: Path) -> Account | None:
    """The account whose folder it is, for root to act as; None for who can be nobody else. Raises OSError."""
    found = folder.stat()
    if os.geteuid() != 0 or found.st_uid == 0:
        return None
    try:
        name = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        # An account of a container, perhaps: its number is enough.
        name = str(found.st_uid)
    return Account(name, found.st_uid, found.st_gid)
