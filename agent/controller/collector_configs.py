"""The collector's configurations on disk: which one runs, which was tried last, and the way back.

`configs/<digest>.yaml` are whole files, each named by the digest of the policy that it was made from, `current.yaml` is
a link to the one that the collector reads, `state.json` says what was tried and what came of it. The state is written
before the link moves, so after a crash the link can be put back to what ran before.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal

from agent.controller.durable import link_target, point_link, private_folder, write_whole

_ADOPTED: Final = "adopted"


@dataclass(frozen=True, slots=True)
class ConfigState:
    """Digests (hex SHA-256) of the configuration that runs and of the one tried last, and what came of that."""

    running: str = ""
    attempted: str = ""
    state: Literal["applied", "applying", "failed"] = "applied"
    detail: str = ""


def last_adopted(folder: Path) -> str:
    """The digest of the owner's file as it was taken last, empty before the first time."""
    try:
        return (folder / _ADOPTED).read_text(encoding="ascii")
    except FileNotFoundError:
        return ""


class CollectorConfigs:
    """The configurations in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = private_folder(folder)
        private_folder(folder / "configs")
        self.state = self._read()

    @property
    def current(self) -> Path:
        """The path that the collector reads."""
        return self._folder / "current.yaml"

    def path(self, digest: str) -> Path:
        """Where the configuration of that digest lies."""
        return self._folder / "configs" / f"{digest}.yaml"

    def adopt(self, file: Path) -> bool:
        """Begins with the configuration in the host owner's file, and again whenever its owner has changed that.

        Whether it did.
        """
        if not file.is_file():
            return False
        data = file.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest == last_adopted(self._folder):
            return False
        self.keep(digest, data)
        self._write(ConfigState(digest, digest))
        self._point(digest)
        write_whole(self._folder / _ADOPTED, digest.encode())
        return True

    def recover(self) -> bool:
        """Puts the link back after a crash in the middle of a trial; whether there was one."""
        was_trying = self.state.state == "applying"
        if was_trying:
            self.fail("the controller ended during the trial")
        elif self.state.running and link_target(self.current) != self._name(self.state.running):
            self._point(self.state.running)
        return was_trying

    def keep(self, digest: str, data: bytes) -> Path:
        """Keeps a configuration beside the others."""
        path = self.path(digest)
        write_whole(path, data)
        return path

    def try_out(self, digest: str) -> None:
        """Points the link to a candidate."""
        self._write(replace(self.state, attempted=digest, state="applying", detail=""))
        self._point(digest)

    def settle(self) -> None:
        """The candidate is what runs from now on; all but it and the one before are removed."""
        before = self.state.running
        self._write(ConfigState(self.state.attempted, self.state.attempted))
        for path in (self._folder / "configs").glob("*.yaml"):
            if path.stem not in (before, self.state.running):
                path.unlink(missing_ok=True)

    def confirm(self) -> None:
        """What runs was asked for again: trouble with one tried since is over."""
        self._write(ConfigState(self.state.running, self.state.running))

    def fail(self, detail: str) -> None:
        """Points the link back to what ran before (or removes it), then says so."""
        if self.state.running:
            self._point(self.state.running)
        else:
            self.current.unlink(missing_ok=True)
        self._write(replace(self.state, state="failed", detail=detail[:2000]))

    def refuse(self, digest: str, detail: str) -> None:
        """Notes a candidate that was never tried, because of what it says."""
        self._write(replace(self.state, attempted=digest, state="failed", detail=detail[:2000]))

    def _name(self, digest: str) -> str:
        return f"configs/{digest}.yaml"

    def _point(self, digest: str) -> None:
        point_link(self.current, self._name(digest))

    def _read(self) -> ConfigState:
        try:
            return ConfigState(**json.loads((self._folder / "state.json").read_bytes()))
        except FileNotFoundError:
            return ConfigState()
        except (ValueError, TypeError):
            # The link still says what runs.
            target = link_target(self.current) or ""
            digest = Path(target).stem
            return ConfigState(digest, digest, "failed", "state.json was damaged")

    def _write(self, state: ConfigState) -> None:
        write_whole(self._folder / "state.json", json.dumps(asdict(state)).encode())
        self.state = state
