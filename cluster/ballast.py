"""A file that only takes up space, so that there is some to give when the disk of PostgreSQL is full.

PostgreSQL stops when it cannot write its log, and cannot start again without a little room. The supervisor then deletes
this file: the server comes up, what is stored can be read and pruned, and detectors go on, while admission refuses new
logs until there is real room. When there is plenty again, the supervisor makes the file anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

DEFAULT_BYTES = 64 * 2**20
# One segment of PostgreSQL's log is 16 MiB; with less than two it neither starts nor lasts.
LEAST_FREE = 32 * 2**20
_ROOM_FOR_IT = 4
_NAME = "ballast"


class Ballast:
    """The file in a cluster's folder; `size` 0 means that there is none."""

    def __init__(self, folder: Path, size: int = DEFAULT_BYTES) -> None:
        self._folder = folder
        self._path = folder / _NAME
        self._size = size

    @property
    def present(self) -> bool:
        """Whether it takes up its space."""
        return self._path.exists()

    @property
    def free_bytes(self) -> int:
        """What an unprivileged process may still write on that disk."""
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize

    @property
    def disk_is_full(self) -> bool:
        """Whether PostgreSQL has too little room to work."""
        return self.free_bytes < LEAST_FREE

    def fill(self) -> bool:
        """Makes the file when it is missing and four times its size is free; says whether it is there."""
        if self._size == 0 or self.present or self.free_bytes < _ROOM_FOR_IT * self._size:
            return self.present
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._size)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._path.unlink(missing_ok=True)
            log.warning("postgres.no_ballast", error=str(error))
        return self.present

    def release(self) -> bool:
        """Gives its space away; False when there was none to give."""
        if not self.present:
            return False
        self._path.unlink()
        log.warning("postgres.ballast_released", freed=self._size, advice="the disk is full: free some space")
        return True
