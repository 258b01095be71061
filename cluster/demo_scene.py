"""What makes the demo real: the scripted lines, stamped from now on, and the collector that ships them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from agent.collector import Collector, CollectorError, CollectorProfile
from cluster.command_error import CommandError
from cluster.demo import ScriptedLine
from cluster.intrusion import FILES, HOST, intrusion


class DemoCollector:
    """The real OpenTelemetry Collector on the log files that the intrusion writes."""

    def __init__(self, folder: Path, base_url: str, key: str) -> None:
        # The files appear after the collector does, so each is to be read from its first line.
        files = tuple(str(folder / name) for name in FILES)
        profile = CollectorProfile(files, base_url, HOST, start_at="beginning")
        self._collector = Collector(profile, key, folder / "collector")

    def start(self) -> None:
        """Returns when the collector tails; raises CommandError with its own words when it does not run."""
        try:
            self._collector.start()
        except CollectorError as error:
            raise CommandError(str(error)) from error

    def stop(self) -> None:
        """Ends the collector; safe to call at any time."""
        self._collector.stop()


def intrusion_lines() -> Iterable[ScriptedLine]:
    """The intrusion, beginning at this moment."""
    return intrusion(datetime.now(UTC))
