"""What makes the demo real: the lines, stamped from now on, who ships them, and a cluster that takes agents."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from agent.collector import Collector, CollectorError, CollectorProfile
from cluster.certificates import CertificateAuthority, own_hosts
from cluster.command_error import CommandError
from cluster.data_directory import DataDirectory
from cluster.demo import DemoSite, ScriptedLine, Sender
from cluster.demo_agent import DemoAgent
from cluster.intrusion import FILES, HOST, intrusion
from cluster.lifecycle import Cluster
from serve.settings import Settings


class DemoCollector:
    """The OpenTelemetry Collector alone, straight to a cluster that has no TLS and so no agents."""

    def __init__(self, site: DemoSite) -> None:
        # The files appear after the collector does, so each is to be read from its first line.
        files = tuple(str(site.folder / name) for name in FILES)
        profile = CollectorProfile(files, site.base_url, HOST, start_at="beginning")
        self._collector = Collector(profile, site.key, site.folder / "collector")

    def start(self, progress: Callable[[str], None]) -> None:
        """Returns when the collector tails; raises CommandError with its own words when it does not run."""
        progress("starting the collector alone: this cluster has no TLS, which agents need (`trustsoc cert init`)")
        try:
            self._collector.start()
        except CollectorError as error:
            raise CommandError(str(error)) from error

    def account(self) -> dict[str, Any]:
        """It keeps no books."""
        return {}

    def stop(self) -> None:
        """Ends the collector; safe to call at any time."""
        self._collector.stop()


def demo_sender(site: DemoSite) -> Sender:
    """A whole agent where the cluster takes agents, else the collector alone."""
    return DemoAgent(site) if site.agent_url.startswith("https:") else DemoCollector(site)


def intrusion_lines() -> Iterable[ScriptedLine]:
    """The intrusion, beginning at this moment."""
    return intrusion(datetime.now(UTC))


def demo_cluster(
    directory: DataDirectory, settings: Settings, factory: Callable[[Settings], Callable[[], Cluster]]
) -> Callable[[], Cluster]:
    """Makes a cluster that takes agents: without a TLS port in the settings, on a free one, by our own authority."""

    def make() -> Cluster:
        if settings.tls_port:
            return factory(settings)()
        authority = CertificateAuthority(directory.path / "tls")
        if not authority.certificate_path.exists():
            authority.create(own_hosts(), datetime.now(UTC))
        with socket.socket() as probe:
            probe.bind((settings.tls_host, 0))
            port = int(probe.getsockname()[1])
        return factory(settings.model_copy(update={"tls_port": port}))()

    return make
