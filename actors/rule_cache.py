"""Compiled rule sets on disk, so that a restarted detector need not compile for ten seconds what it had compiled.

Nothing depends on it: a file that cannot be read, written or understood costs the time to compile, and one line in
the log. Only a folder that nobody else can write to is used, for what is in it is run.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from detect.sigma.codec import BadCompiled, CompiledRules, pack_compiled, program_digest, unpack_compiled

logger = structlog.get_logger("rules")

MAX_FILES = 16
_ENDING, _UNFINISHED = ".compiled", ".part"
_ABANDONED_S = 3600.0


class RuleCache:
    """A folder of compiled rule sets by digest. `warn` takes what keeps it from being used, and the particulars."""

    def __init__(self, folder: Path, warn: Callable[..., object] = logger.warning) -> None:
        self._folder = folder
        self._warn = warn

    @classmethod
    def at(cls, folder: str) -> RuleCache:
        """The folder of that name; where none is named, one of this user's below the temporary folder."""
        return cls(Path(folder) if folder else Path(tempfile.gettempdir()) / f"trustsoc-rules-{os.getuid()}")

    def read(self, digest: str, engine: str) -> CompiledRules | None:
        """The compiled rule set of a digest; None when there is none that this program can use."""
        path = self._path(digest)
        try:
            if not self._is_ours():
                return None
            data = path.read_bytes()
            compiled = unpack_compiled(data, engine)
            if compiled.rules.digest != digest:
                raise BadCompiled("the file is of another rule set")
            with contextlib.suppress(OSError):  # a folder that cannot be written to is as good to read
                os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, BadCompiled) as error:
            self._warn("compiled rules unusable: compiling anew", path=str(path), error=str(error))
            return None
        return compiled

    def write(self, compiled: CompiledRules) -> None:
        """Keeps a compiled rule set, and of all at most 16 that were used last."""
        path = self._path(compiled.rules.digest)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_ours():
                return
            self._replace(path, pack_compiled(compiled))
            self._prune()
        except (OSError, TypeError) as error:
            self._warn("compiled rules not kept", path=str(path), error=str(error))

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest}-{program_digest()}{_ENDING}"

    def _is_ours(self) -> bool:
        """Whether the folder is this user's, and nobody else's to write."""
        found = self._folder.lstat()
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
        if not ours:
            self._warn("others can write to the folder of compiled rules: not used", folder=str(self._folder))
        return ours

    def _replace(self, path: Path, data: bytes) -> None:
        number, name = tempfile.mkstemp(dir=self._folder, suffix=_UNFINISHED)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(data)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _prune(self) -> None:
        by_use = sorted(self._folder.glob(f"*{_ENDING}"), key=lambda path: path.stat().st_mtime, reverse=True)
        old = time.time() - _ABANDONED_S
        # A process that was killed in the middle of writing leaves its part; another may be at work on a newer one.
        abandoned = [path for path in self._folder.glob(f"*{_UNFINISHED}") if path.stat().st_mtime < old]
        for path in (*by_use[MAX_FILES:], *abandoned):
            path.unlink(missing_ok=True)
