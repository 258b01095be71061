"""What an earlier PostgreSQL left behind on its data directory: processes that still run, and the mark in its pid file.

Whoever calls this holds the lock of the data directory, so none of those processes is wanted any more.
"""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import psutil

_PATIENCE_SECONDS = 8.0
_POLL_SECONDS = 0.1


def pid_file_lines(data: Path) -> list[str]:
    """The lines of postmaster.pid, none when there is no such file."""
    try:
        return (data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def await_orphans(data: Path, timeout_s: float, stopping: threading.Event) -> None:
    """Waits until no process of an earlier server is left, then removes the mark that it left.

    Gives up, with the mark in place, after `timeout_s` seconds or when `stopping` is set. A server is asked to shut
    down once; backends end by themselves when their server is gone; what is late is killed.
    """
    if not pid_file_lines(data):
        return
    began = time.monotonic()
    asked: set[int] = set()
    while orphans := _orphans(data):
        late = time.monotonic() - began > min(_PATIENCE_SECONDS, timeout_s / 2)
        server = next(iter(pid_file_lines(data)), "")
        for orphan in orphans:
            if late:
                _send(orphan, signal.SIGKILL)
            elif str(orphan.pid) == server.strip() and orphan.pid not in asked:
                asked.add(orphan.pid)
                _send(orphan, signal.SIGINT)
        if stopping.wait(_POLL_SECONDS) or time.monotonic() - began > timeout_s:
            return
    # Its process id may belong to a stranger by now, whom PostgreSQL would take for a running server.
    (data / "postmaster.pid").unlink(missing_ok=True)


def _orphans(data: Path) -> list[psutil.Process]:
    """Every process of PostgreSQL works in its data directory."""
    folder = str(data.resolve())
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == folder and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
