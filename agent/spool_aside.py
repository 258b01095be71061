"""What cannot be sent is set aside whole, with a note that says why: nothing leaves the spool without a trace."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.spool_files import sync_folder, write_whole


class AsideFull(OSError):
    """The folder holds as much as it may: look at what is in it, then move it away."""


class AsideFolder:
    """A bounded folder of pairs NAME.bin (the bytes) and NAME.json (the note). `most_bytes` bounds the sum of both."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.folder = folder
        self._most = most_bytes

    def used(self) -> int:
        """Bytes in the folder now; people empty it while the spool runs."""
        with os.scandir(self.folder) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)

    def count(self) -> int:
        """Things that lie here."""
        with os.scandir(self.folder) as entries:
            return sum(1 for entry in entries if entry.name.endswith(".json"))

    def put(self, name: str, content: bytes, note: Mapping[str, Any]) -> None:
        """Returns when both are on disk; the same name again replaces them. Raises AsideFull, OSError."""
        text = json.dumps(note, indent=2, sort_keys=True).encode() + b"\n"
        if self.used() + len(content) + len(text) > self._most:
            raise AsideFull(f"{self.folder} holds its {self._most:,} bytes: look at it and move it away")
        write_whole(self.folder / f"{name}.bin", content)
        write_whole(self.folder / f"{name}.json", text)
        sync_folder(self.folder)
