"""Puts a controller together from its settings: the one place where its parts meet."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agent.controller.block_ip import BlockIp
from agent.controller.cert_rotate import CertRotate
from agent.controller.collect_file import CollectFile
from agent.controller.collector_configs import CollectorConfigs
from agent.controller.control_client import ControlClient, TlsFiles
from agent.controller.controller import Controller
from agent.controller.executor import Executor
from agent.controller.health import HealthReport
from agent.controller.identity import IdentityFolder
from agent.controller.ping import Ping
from agent.controller.reload import RulesReload, reload_all
from agent.controller.service import ChildService, CommandService, Service, ServiceTrouble, environment
from agent.controller.settings import CollectorSettings, ControllerSettings, SettingsError
from agent.controller.update_config import UpdateConfig
from agent.controller.upgrade import Upgrade
from agent.executed import ExecutedJobs
from agent.host_policy import HostPolicyError, read_host_policy

logger = logging.getLogger("trustsoc.controller")


def own_version() -> str:
    """The version of the installed package, 0 where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("trust-soc")
    except PackageNotFoundError:
        return "0"


@dataclass(frozen=True, slots=True)
class ManagedCollector:
    """The collector of this host: its configurations, the program that runs, and the one that validates."""

    configs: CollectorConfigs
    service: Service
    binary: Path
    env: dict[str, str]
    health_s: float
    changed: bool

    def begin(self) -> None:
        """Puts back what a crash left in a trial, and starts the program where that is the controller's duty.

        `changed`: a service of the host may still run with another configuration than the one to begin with.
        """
        was_trying = self.configs.recover()
        if (was_trying or self.changed) and self.configs.state.running:
            try:
                self.service.restart()
            except ServiceTrouble as trouble:
                # The controller goes on: another configuration, by another job, may be what mends it.
                logger.error("the collector does not start: %s", trouble)
        self.keep()

    def keep(self) -> None:
        """Starts a child again that has ended."""
        if self.configs.state.running:
            self.service.keep()


class AssembledController:
    """A controller with all that it uses. Raises IdentityError, SettingsError, JournalBusy, CollectorError."""

    def __init__(self, settings: ControllerSettings, *, wait_s: int = 25) -> None:
        self.stopping = threading.Event()
        folder = Path(settings.folder)
        identity = IdentityFolder(folder)
        identity.job_keys()
        pair = identity.current
        tls = TlsFiles(identity.authority, pair / "certificate.pem", pair / "key.pem")
        self._client = ControlClient(identity.read(), identity.signing_key(), tls)
        self._journal = ExecutedJobs(folder / "jobs", time.time_ns() // 1_000_000)
        self.collector = _collector(settings.collector, folder)
        self._health = HealthReport(
            version=own_version(),
            started_at=time.time_ns() // 1_000_000,
            labels=settings.labels,
            configs=self.collector.configs if self.collector else None,
            service=self.collector.service if self.collector else None,
            forwarder_status=settings.forwarder_status,
            offset_ms=lambda: self._client.offset_ms,
        )
        try:
            read_host_policy(Path(settings.policy))
        except HostPolicyError as error:
            # It shows now, not with the first job; the rest of the agent does without one.
            self._health.trouble("policy", str(error))
            logger.error("no job is carried out: %s", error)
        if self._journal.damaged:
            self._health.trouble("memory", "the memory of jobs was damaged: jobs issued before now are refused")
        self._controller = Controller(
            identity=identity,
            client=self._client,
            journal=self._journal,
            executors=_executors(settings, identity, self._client, self.collector, self._health, self.stopping.set),
            policy_path=Path(settings.policy),
            health=self._health,
            stopping=self.stopping,
            wait_s=wait_s,
        )

    def run(self) -> None:
        """Until `stop` is called."""
        try:
            if self.collector is not None:
                self.collector.begin()
            self._controller.run(self.collector.keep if self.collector is not None else lambda: None)
        finally:
            if self.collector is not None:
                self.collector.service.stop()
            self._journal.close()

    def stop(self) -> None:
        """Ends the loop after the job that runs; may be called from a signal handler."""
        self.stopping.set()
        self._client.interrupt()


def _collector(settings: CollectorSettings, folder: Path) -> ManagedCollector | None:
    if not settings.config:
        return None
    from agent.collector.binary import find_binary, safe_arguments

    binary = Path(settings.binary) if settings.binary else find_binary()
    try:
        env = environment(settings.environment_file)
    except OSError as error:
        raise SettingsError(f"collector: environment_file: {error}") from error
    configs = CollectorConfigs(folder / "collector")
    changed = configs.adopt(Path(settings.config))
    service: Service
    if settings.restart:
        service = CommandService(settings.restart, settings.alive)
    else:
        service = ChildService([str(binary), f"--config={configs.current}", *safe_arguments(binary)], env)
    return ManagedCollector(configs, service, binary, env, settings.health_s, changed)


def _executors(
    settings: ControllerSettings,
    identity: IdentityFolder,
    client: ControlClient,
    collector: ManagedCollector | None,
    health: HealthReport,
    end: Callable[[], None],
) -> dict[str, Executor]:
    named = identity.read()
    hosts = [host for url in (named.control, named.ingest) if (host := urlsplit(url).hostname)]
    upgrade_service = CommandService(settings.upgrade.restart, settings.upgrade.alive)
    made: list[Executor] = [
        Ping(own_version(), lambda: {"agent": named.agent}, lambda: client.offset_ms),
        RulesReload(settings.rules),
        CertRotate(identity, client, lambda: reload_all(settings.certificate)),
        CollectFile(client.post, identity.folder),
        BlockIp(hosts),
        Upgrade(settings.upgrade, upgrade_service, client.download, end, health.programs_trouble),
    ]
    if collector is not None:
        made.append(
            UpdateConfig(
                collector.configs,
                collector.service,
                client.get,
                binary=collector.binary,
                env=collector.env,
                health_s=collector.health_s,
            )
        )
    return {executor.type: executor for executor in made}
