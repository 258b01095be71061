"""The folder that holds everything one installation keeps on a machine: its lock, what runs, and the CLI's own keys.

trustsoc.lock   held (flock) by the one `trustsoc up` that owns the folder
runtime.json    what runs right now: process, address, since when
client.json     credentials of the command line on this machine, mode 0600
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil

from cluster.command_error import CommandError

DATA_DIRECTORY_VARIABLE = "TRUSTSOC_DATA_DIR"
DEFAULT_BASE_URL = "http://127.0.0.1:4318"

_PRIVATE_FOLDER = 0o700
# Root's PostgreSQL runs as another user, which must pass through; nothing can be listed, and files are private.
_ROOTS_FOLDER = 0o711
_PRIVATE_FILE = 0o600
_START_TOLERANCE_SECONDS = 2.0

_Stored = TypeVar("_Stored", bound=msgspec.Struct)


class Runtime(msgspec.Struct, frozen=True):
    """What runs on a data directory. `started_at` is ISO 8601 UTC; `agent_url` is where agents go, empty without TLS.

    `pid_started` (seconds since the epoch) tells the process from a later one with the same number; `instance` is a
    random mark in the environment of every process that `up` starts, so that strays can be found.
    """

    pid: int
    base_url: str
    started_at: str
    pid_started: float
    instance: str
    agent_url: str = ""

    def process(self) -> psutil.Process | None:
        """The process that owns the directory, or None when it has gone."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.pid_started) > _START_TOLERANCE_SECONDS:
                return None
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except psutil.NoSuchProcess:
            return None


class ClientCredentials(msgspec.Struct):
    """What the command line needs to talk to the cluster of this machine. `tenant` is the one used by default."""

    base_url: str
    admin_key: str | None = None
    tenant: str = "default"
    tenant_keys: dict[str, str] = {}


class DataDirectoryError(CommandError):
    """The data directory cannot be used."""


class DataDirectoryInUseError(DataDirectoryError):
    """Another `trustsoc up` owns the directory. `runtime` says which, when it has written that already."""

    def __init__(self, path: Path, runtime: Runtime | None) -> None:
        self.runtime = runtime
        who = f"process {runtime.pid}, {runtime.base_url}" if runtime else "a process that is just starting"
        super().__init__(
            f"Trust SOC already runs on {path} ({who}): use it, stop it with `trustsoc down`, "
            "or choose another folder with --data-dir"
        )


def default_data_directory(environment: dict[str, str] | None = None) -> Path:
    """TRUSTSOC_DATA_DIR, or `trustsoc` in the user's data home (XDG base directory specification)."""
    variables = os.environ if environment is None else environment
    if stated := variables.get(DATA_DIRECTORY_VARIABLE):
        return Path(stated)
    data_home = variables.get("XDG_DATA_HOME", "")
    # The specification says that a relative path in XDG_DATA_HOME is to be ignored.
    if data_home and Path(data_home).is_absolute():
        return Path(data_home) / "trustsoc"
    return Path.home() / ".local" / "share" / "trustsoc"


class DataDirectory:
    """One installation's folder. Reading methods work on a missing folder; `create` makes it private."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()

    @property
    def lock_path(self) -> Path:
        return self.path / "trustsoc.lock"

    @property
    def runtime_path(self) -> Path:
        return self.path / "runtime.json"

    @property
    def client_path(self) -> Path:
        return self.path / "client.json"

    def create(self) -> None:
        """Makes the folder, or takes group and world write access away from an existing one.

        Read and search permission of an existing folder stay: the embedded PostgreSQL of a root installation runs
        as another user and must pass through.
        """
        try:
            self.path.mkdir(mode=_ROOTS_FOLDER if os.geteuid() == 0 else _PRIVATE_FOLDER, parents=True, exist_ok=True)
            mode = stat.S_IMODE(self.path.stat().st_mode)
            if mode & 0o022:
                self.path.chmod(mode & ~0o022)
        except FileExistsError as error:
            raise DataDirectoryError(f"{self.path} is not a folder: choose another with --data-dir") from error
        except OSError as error:
            raise DataDirectoryError(
                f"cannot make the data directory {self.path} ({error.strerror}): choose another with --data-dir"
            ) from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Owns the directory until the block ends. Raises DataDirectoryInUseError when somebody else does.

        The kernel lets go of the lock when the owner dies in any way, so a stale lock cannot exist.
        """
        self.create()
        try:
            descriptor = os.open(self.lock_path, os.O_RDWR | os.O_CREAT, _PRIVATE_FILE)
        except OSError as error:
            raise DataDirectoryError(f"cannot write to {self.path} ({error.strerror})") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataDirectoryInUseError(self.path, self.running()) from error
            try:
                yield
            finally:
                # Closing alone would leave it locked for as long as a child lives that was forked meanwhile.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def runtime(self) -> Runtime | None:
        """What runtime.json says, whether or not that process still lives."""
        return self._read(self.runtime_path, Runtime)

    def running(self) -> Runtime | None:
        """The runtime whose process is alive."""
        runtime = self.runtime()
        return runtime if runtime is not None and runtime.process() is not None else None

    def write_runtime(self, runtime: Runtime) -> None:
        self._write(self.runtime_path, msgspec.json.encode(runtime))

    def clear_runtime(self) -> None:
        self.runtime_path.unlink(missing_ok=True)

    def credentials(self) -> ClientCredentials | None:
        """The stored credentials, or None before the first `up`. Raises when others can read the file."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_IMODE(self.client_path.stat().st_mode) & 0o077:
                raise DataDirectoryError(
                    f"{self.client_path} holds keys and can be read by others: run `chmod 600 {self.client_path}`"
                )
        return self._read(self.client_path, ClientCredentials)

    def write_credentials(self, credentials: ClientCredentials) -> None:
        self._write(self.client_path, msgspec.json.encode(credentials))

    def _read(self, path: Path, kind: type[_Stored]) -> _Stored | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DataDirectoryError(f"cannot read {path} ({error.strerror})") from error
        except msgspec.MsgspecError as error:
            raise DataDirectoryError(f"{path} is damaged ({error}): move it away and run `trustsoc up`") from error

    def _write(self, path: Path, content: bytes) -> None:
        """Replaces the file whole: a reader sees the old text or the new, and only the owner can read it."""
        descriptor, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), _PRIVATE_FILE)
                file.write(content + b"\n")
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
