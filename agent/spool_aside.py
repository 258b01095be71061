"""What cannot be sent is set aside whole, with a note that says why: nothing leaves the spool without a trace."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.spool_files import make_folder, sync_folder, write_whole

logger = logging.getLogger("agent.spool")


class AsideFull(OSError):
    """The folder holds as much as it may: look at what is in it, then move it away."""


class AsideFolder:
    """A bounded folder of pairs NAME.bin (the bytes) and NAME.json (the note). `most_bytes` bounds the sum of both."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        make_folder(folder)
        self.folder = folder
        self._most = most_bytes

    def used(self) -> int:
        """Bytes in the folder now; people empty it while the spool runs."""
        total = 0
        for entry in self._entries():
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_size
        return total

    def count(self) -> int:
        """Things that lie here."""
        return sum(1 for entry in self._entries() if entry.name.endswith(".json"))

    def put(self, name: str, content: bytes, note: Mapping[str, Any]) -> None:
        """Returns when both are on disk; the same name again replaces them. Raises AsideFull, OSError."""
        text = json.dumps(note, indent=2, sort_keys=True).encode() + b"\n"
        if self.used() + len(content) + len(text) > self._most:
            raise AsideFull(f"{self.folder} holds its {self._most:,} bytes: look at it and move it away")
        make_folder(self.folder)  # people who move what is in it away take the folder too
        write_whole(self.folder / f"{name}.bin", content)
        write_whole(self.folder / f"{name}.json", text)
        sync_folder(self.folder)

    def get(self, name: str) -> tuple[bytes, dict[str, Any]]:
        """The bytes and the note of what lies here under the name. Raises OSError, ValueError for a broken note."""
        note = json.loads((self.folder / f"{name}.json").read_bytes())
        if not isinstance(note, dict):
            raise ValueError(f"{name}.json holds no note")
        return (self.folder / f"{name}.bin").read_bytes(), note

    def remove(self, name: str) -> None:
        """Removes both, durably; nothing when they are gone. Raises OSError."""
        # The note goes last: while it is there, somebody is told that there was something.
        (self.folder / f"{name}.bin").unlink(missing_ok=True)
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        sync_folder(self.folder)

    def keep(self, name: str, content: bytes, note: Mapping[str, Any]) -> bool:
        """As `put`, for what goes on without: False, and a line in the log, when they could not be kept."""
        try:
            self.put(name, content, note)
        except OSError as error:
            logger.error("%s is not kept in %s: %s", name, self.folder, error)
            return False
        return True

    def _entries(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.folder) as entries:
                return list(entries)
        except FileNotFoundError:
            return []
