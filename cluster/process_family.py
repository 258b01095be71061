"""The processes of one installation: finding every one of them, and making sure that none is left.

A process belongs to the family when it descends from the owner, or when its environment carries the owner's mark.
Daemons that a dead owner left behind are found by the mark; PostgreSQL overwrites its environment for `ps`, so it is
also known by its working folder inside the data directory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

MARK_VARIABLE = "TRUSTSOC_INSTANCE"

_POLITE_SECONDS = 5.0
_KILL_SECONDS = 5.0


@contextlib.contextmanager
def marked_environment(instance: str) -> Iterator[None]:
    """Every process started within the block inherits the mark."""
    before = os.environ.get(MARK_VARIABLE)
    os.environ[MARK_VARIABLE] = instance
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(MARK_VARIABLE, None)
        else:
            os.environ[MARK_VARIABLE] = before


def family(owner: psutil.Process | None, instance: str, data_directory: Path) -> set[psutil.Process]:
    """All living members but the owner and this process. Processes of other users that hide themselves are left out."""
    members: set[psutil.Process] = set()
    folders = _postgres_folders(data_directory)
    if owner is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            members.update(owner.children(recursive=True))
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            if process.environ().get(MARK_VARIABLE) == instance or _is_our_postgres(process, folders):
                members.add(process)
    own = psutil.Process()
    return {process for process in living(members) if process not in (owner, own) and not _helps_this_process(process)}


def living(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    """Those that still run; a zombie only waits for its parent to look."""
    alive = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                alive.add(process)
    return alive


def end(processes: Iterable[psutil.Process]) -> list[str]:
    """Ends all of them, politely at first; the names and pids of those that had to be told."""
    members = living(processes)
    described = sorted(_described(process) for process in members)
    for process in members:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.terminate()
    _, stubborn = psutil.wait_procs(list(members), timeout=_POLITE_SECONDS)
    for process in living(stubborn):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.kill()
    psutil.wait_procs(stubborn, timeout=_KILL_SECONDS)
    return described


def _described(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return f"{process.name()} ({process.pid})"
    return str(process.pid)


def _postgres_folders(data_directory: Path) -> tuple[Path, ...]:
    """Where a PostgreSQL of ours can work: root's may lie outside of the data directory, which then says where."""
    try:
        remembered = msgspec.json.decode((data_directory / "postgres.json").read_bytes(), type=dict[str, Any])
        return data_directory, Path(str(remembered["cluster_dir"]))
    except (OSError, msgspec.MsgspecError, KeyError):
        return (data_directory,)


def _is_our_postgres(process: psutil.Process, folders: tuple[Path, ...]) -> bool:
    return process.name() == "postgres" and any(Path(process.cwd()).is_relative_to(folder) for folder in folders)


def _helps_this_process(process: psutil.Process) -> bool:
    """Python's own resource tracker lives as long as its parent and ends with it."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return process.ppid() == os.getpid() and "resource_tracker" in " ".join(process.cmdline())
    return False
