"""`trustsoc-agent uninstall`: removes what the agent made on this host, and nothing else."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.installation.account import acting_as, owner_of
from agent.installation.places import InstallationError, Places, RunLock

# The identity goes first: a folder without it is nobody's.
_FILES: Final = (
    "identity.json",
    "signing_key.json",
    "result.key",
    "masking.key",
    "job_keys.json",
    "token",
    "collector.env",
)
_FOLDERS: Final = ("tls", "jobs", "collector", "spool", "run")


@dataclass(frozen=True, slots=True)
class Removal:
    """What was removed, and what is left in the two folders because this agent did not make it."""

    removed: tuple[Path, ...]
    left: tuple[Path, ...]
    agent: str


def waiting_records(places: Places) -> int:
    """Records in the spool that the server has not acknowledged. Raises InstallationError when it cannot be read."""
    if not places.spool.is_dir():
        return 0
    from agent.spool import Spool, SpoolError

    try:
        spool = Spool(places.spool)
    except (SpoolError, OSError) as error:
        raise InstallationError(f"the spool cannot be read: {error}; --lose-unsent removes it unread") from error
    try:
        return spool.books().in_flight
    finally:
        spool.close()


def uninstall(places: Places, *, settings_too: bool = False, lose_unsent: bool = False) -> Removal:
    """Removes it. Raises InstallationError when an agent runs, or records would be lost without leave."""
    if not places.state.is_dir() or places.state.is_symlink():
        raise InstallationError(f"there is no agent in {places.state}")
    try:
        # Root must not leave files behind that the agent's account cannot open when this ends in a refusal.
        with acting_as(owner_of(places.state)):
            agent = _name(places)
            removed = _state_removed(places, lose_unsent)
        if settings_too:
            settings = (places.forwarder, places.controller, places.policy, places.collector, places.authority)
            removed += [path for path in settings if _removed(path)]
        left: list[Path] = []
        for folder in (places.state, places.settings):
            if folder.is_dir():
                left += sorted(folder.iterdir())
    except OSError as error:
        raise InstallationError(f"{error.filename}: {error.strerror}") from error
    return Removal(tuple(removed), tuple(left), agent)


def _state_removed(places: Places, lose_unsent: bool) -> list[Path]:
    lock = RunLock(places)
    try:
        waiting = 0 if lose_unsent else waiting_records(places)
        if waiting:
            raise InstallationError(
                f"{waiting} records were accepted and not sent: start the agent until `trustsoc-agent status` says "
                "0 waiting, or give --lose-unsent"
            )
        return [path for name in (*_FILES, *_FOLDERS) if _removed(path := places.state / name)]
    finally:
        lock.release()


def _removed(path: Path) -> bool:
    if path.is_symlink() or path.is_file():
        path.unlink()
        return True
    if path.is_dir():
        shutil.rmtree(path)
        return True
    return False


def _name(places: Places) -> str:
    from agent.controller.identity import IdentityError, IdentityFolder

    try:
        return IdentityFolder(places.state).read().agent
    except IdentityError:
        return ""
