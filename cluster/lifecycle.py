"""Bringing the cluster of one machine up and down. Whatever way it stops, nothing that it started stays behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import psutil

from cluster import process_family
from cluster.command_error import CommandError
from cluster.credentials import keep_first_keys
from cluster.data_directory import ClientCredentials, DataDirectory, Runtime
from cluster.stop_signals import StopRequested, StopSignals

Progress = Callable[[str], None]

STOP_PATIENCE_SECONDS = 90.0
_POLL_SECONDS = 0.1
_LEAVE_SECONDS = 3.0


class Endpoint(Protocol):
    """Where a started cluster listens. `admin_key` is the first administrator's key, on the first start only.

    `agent_url` is the base address of agents, empty where there is no TLS.
    """

    @property
    def base_url(self) -> str: ...
    @property
    def agent_url(self) -> str: ...
    @property
    def admin_key(self) -> str | None: ...


class Cluster(Protocol):
    """Something that can be brought up on this machine (cluster.embedded.EmbeddedCluster)."""

    def start(self, progress: Progress) -> Endpoint:
        """Blocks until it answers; `progress` is told what begins."""

    def stop(self) -> None:
        """Stops whatever was started, also after a start that failed half way."""

    def wait(self) -> None:
        """Blocks until the cluster ends by itself; raises when a part of it cannot be brought back."""


@dataclass(frozen=True)
class Started:
    """A cluster that answers. `new_admin_key` is set on the first start only: it is shown once and never again."""

    base_url: str
    agent_url: str
    credentials: ClientCredentials
    new_admin_key: str | None
    cluster: Cluster
    signals: StopSignals


@dataclass(frozen=True)
class StopOutcome:
    """What `down` found: whether something ran, and which processes had to be ended one by one."""

    was_running: bool
    ended: list[str]


@contextlib.contextmanager
def running_cluster(
    directory: DataDirectory, base_url: str, make_cluster: Callable[[], Cluster], progress: Progress
) -> Iterator[Started]:
    """Owns the data directory and a started cluster until the block ends; raises DataDirectoryInUseError.

    Must run in the main thread: Ctrl-C, SIGTERM and SIGHUP raise StopRequested in the block, during the start too.
    """
    instance = uuid.uuid4().hex
    with StopSignals() as signals, directory.lock(), process_family.marked_environment(instance):
        directory.write_runtime(_own_runtime(base_url, instance))
        cluster: Cluster | None = None
        try:
            cluster = make_cluster()
            endpoint = cluster.start(_reinstalling(signals, progress))
            signals.install()
            signals.check()
            directory.write_runtime(_own_runtime(endpoint.base_url, instance, endpoint.agent_url))
            credentials = keep_first_keys(directory, endpoint.base_url, endpoint.admin_key)
            yield Started(endpoint.base_url, endpoint.agent_url, credentials, endpoint.admin_key, cluster, signals)
        except SystemExit as ended:
            # What Ray makes of SIGTERM while it starts, before the signals are ours again.
            signals.defuse()
            raise StopRequested(signal.SIGTERM) from ended
        except StopRequested:
            signals.defuse()
            raise
        finally:
            signals.begin_stopping()
            progress("stopping")
            try:
                if cluster is not None:
                    cluster.stop()
            finally:
                _wait_or_end(instance, directory.path)
                directory.clear_runtime()


def _reinstalling(signals: StopSignals, progress: Progress) -> Progress:
    """Progress that takes the signals back at every step: Ray and its native library take SIGTERM while they start."""

    def step(text: str) -> None:
        signals.install()
        signals.check()
        progress(text)

    return step


def stop_cluster(
    directory: DataDirectory, progress: Progress, patience_seconds: float = STOP_PATIENCE_SECONDS
) -> StopOutcome:
    """Asks the owner of the data directory to stop and waits until every process of it has gone.

    An owner that died earlier may have left daemons behind: they are ended too, and its runtime.json is removed.
    """
    runtime = directory.runtime()
    if runtime is None:
        return StopOutcome(was_running=False, ended=[])
    owner = runtime.process()
    if owner is None:
        progress("cleaning up after a process that died")
        ended = process_family.end(process_family.family(None, runtime.instance, directory.path))
        directory.clear_runtime()
        return StopOutcome(was_running=False, ended=ended)
    progress(f"stopping process {owner.pid}")
    members = _stop_owner(owner, runtime.instance, directory.path, patience_seconds)
    members |= process_family.family(None, runtime.instance, directory.path)
    _, alive = psutil.wait_procs(list(process_family.living(members)), timeout=_LEAVE_SECONDS)
    ended = process_family.end(alive)
    left = process_family.living(members | {owner})
    if left:
        numbers = ", ".join(str(process.pid) for process in left)
        raise CommandError(f"these processes do not end, not even when killed: {numbers}")
    directory.clear_runtime()
    return StopOutcome(was_running=True, ended=ended)


def _stop_owner(
    owner: psutil.Process, instance: str, data_directory: Path, patience_seconds: float
) -> set[psutil.Process]:
    """Ends the owner; every family member seen meanwhile, since it may start some more before it hears the signal."""
    members = process_family.family(owner, instance, data_directory)
    try:
        owner.terminate()
        deadline = time.monotonic() + patience_seconds
        while process_family.living({owner}) and time.monotonic() < deadline:
            with contextlib.suppress(psutil.NoSuchProcess):
                members.update(owner.children(recursive=True))
            time.sleep(_POLL_SECONDS)
        if process_family.living({owner}):
            members |= process_family.family(owner, instance, data_directory)
            owner.kill()
            psutil.wait_procs([owner], timeout=_LEAVE_SECONDS)
    except psutil.NoSuchProcess:
        return members
    except psutil.AccessDenied as error:
        raise CommandError(
            f"process {owner.pid} belongs to another user: run `trustsoc down` as that user or as root"
        ) from error
    return members


def _wait_or_end(instance: str, data_directory: Path) -> None:
    """After a clean stop all children are gone or just going; whoever stays is ended."""
    members = process_family.family(psutil.Process(), instance, data_directory)
    _, alive = psutil.wait_procs(list(members), timeout=_LEAVE_SECONDS)
    process_family.end(alive)


def _own_runtime(base_url: str, instance: str, agent_url: str = "") -> Runtime:
    return Runtime(
        pid=os.getpid(),
        base_url=base_url,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        pid_started=psutil.Process().create_time(),
        instance=instance,
        agent_url=agent_url,
    )
