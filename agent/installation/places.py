"""Where an agent's files are on a host: the owner's settings in one folder, what the agent keeps in another."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.controller.durable import private_folder, write_whole

SETTINGS: Final = Path("/etc/trustsoc-agent")
STATE: Final = Path("/var/lib/trustsoc-agent")
_LOOKING_S: Final = 0.5
COLLECTOR_KEY: Final = "TRUSTSOC_INGEST_KEY"
"""The variable from which the collector's configuration takes the local token."""


class InstallationError(Exception):
    """The agent cannot be set up, started or removed as asked; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Places:
    """The two folders and what is in them. `settings` is the host owner's to write, `state` the agent's alone."""

    settings: Path = SETTINGS
    state: Path = STATE

    @property
    def forwarder(self) -> Path:
        """The forwarder's settings."""
        return self.settings / "forwarder.yml"

    @property
    def controller(self) -> Path:
        """The controller's settings."""
        return self.settings / "controller.yml"

    @property
    def policy(self) -> Path:
        """What the owner lets the server ask of this host."""
        return self.settings / "policy.yml"

    @property
    def collector(self) -> Path:
        """The collector's configuration to begin with."""
        return self.settings / "collector.yaml"

    @property
    def authority(self) -> Path:
        """Who signs the server's certificate, as the owner brought it here."""
        return self.settings / "authority.pem"

    @property
    def token(self) -> Path:
        """The local token, which senders of this host show to the forwarder."""
        return self.state / "token"

    @property
    def collector_environment(self) -> Path:
        """The collector's variables: the local token."""
        return self.state / "collector.env"

    @property
    def masking_key(self) -> Path:
        """The tenant's masking key, where it has one."""
        return self.state / "masking.key"

    @property
    def spool(self) -> Path:
        """What is accepted and not acknowledged yet."""
        return self.state / "spool"

    @property
    def running(self) -> Path:
        """What is true only while the agent runs: a lock, and process ids."""
        return self.state / "run"

    @property
    def forwarder_pid(self) -> Path:
        """The forwarder's process id, for those that tell it to read its files again."""
        return self.running / "forwarder.pid"

    @property
    def record(self) -> Path:
        """What the supervisor says of its programs."""
        return self.running / "agent.json"


class AgentBusy(InstallationError):
    """An agent runs on this state folder."""


class RunLock:
    """Held while the agent runs, so that no second one does and others can tell. It ends with the process."""

    def __init__(self, places: Places) -> None:
        """Raises AgentBusy, OSError."""
        private_folder(places.running)
        self._descriptor = os.open(places.running / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Whoever looks whether an agent runs holds the lock for a moment as well.
        deadline = time.monotonic() + _LOOKING_S
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    os.close(self._descriptor)
                    raise AgentBusy(f"an agent runs on {places.state}: stop it first") from error
                time.sleep(0.02)

    def release(self) -> None:
        """Others may run from now on."""
        os.close(self._descriptor)


def is_running(places: Places) -> bool:
    """Whether an agent runs on this state folder. Raises OSError when that cannot be seen."""
    try:
        descriptor = os.open(places.running / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_record(places: Places) -> dict[str, Any]:
    """What the supervisor wrote last; empty when there is nothing to read."""
    try:
        record = json.loads(places.record.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def provide_token(places: Places) -> None:
    """Makes the local token where there is none, and gives it to the collector. Raises OSError."""
    if not places.token.exists():
        write_whole(places.token, secrets.token_urlsafe(32).encode() + b"\n")
    line = f"{COLLECTOR_KEY}=".encode() + places.token.read_bytes().strip() + b"\n"
    # An agent must start on a full disk too, to send away what fills it.
    if not places.collector_environment.exists() or places.collector_environment.read_bytes() != line:
        write_whole(places.collector_environment, line)
