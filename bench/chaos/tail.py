"""A file that grows and the real collector that tails it, started again whenever it was killed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from agent.collector import Collector, CollectorError, CollectorProfile

_PAUSE_S = 0.2


class TailedFile(threading.Thread):
    """Writes one numbered line after the other and keeps a collector on the file.

    The testing collector keeps no offsets, so after a kill it reads the file from its beginning: a line may be stored
    more than once, never not at all. The collector lives in this thread, because it dies with the thread that made it.
    """

    def __init__(self, folder: Path, base_url: str, key: str) -> None:
        super().__init__(daemon=True)
        folder.mkdir()
        self._path = folder / "app.log"
        self._path.touch()
        profile = CollectorProfile((str(self._path),), base_url, "web-9", start_at="beginning", batch_milliseconds=200)
        self._new_collector: Callable[[], Collector] = lambda: Collector(profile, key, folder / "private")
        self._collector = self._new_collector()
        self._stopping = threading.Event()
        self._ending = threading.Event()
        self.written = 0
        self.collectors = 0

    def stop(self) -> None:
        """No new lines; the collector goes on."""
        self._stopping.set()

    def end(self) -> None:
        """Ends the collector as well."""
        self.stop()
        self._ending.set()
        self.join()

    def processes(self) -> list[psutil.Process]:
        """The collector while it lives."""
        pid = self._collector.pid
        with suppress(psutil.NoSuchProcess):
            return [] if pid is None else [psutil.Process(pid)]
        return []

    def missing(self, messages: Iterable[str]) -> list[str]:
        """The lines that were written and are in none of the messages."""
        stored = set(messages)
        return [line for number in range(self.written) if (line := _line(number)) not in stored]

    def run(self) -> None:
        """The thread: until the end, a collector that was killed is replaced."""
        with self._path.open("a", encoding="utf-8", buffering=1) as file:
            while not self._ending.wait(_PAUSE_S):
                if not self._stopping.is_set():
                    file.write(_line(self.written) + "\n")
                    self.written += 1
                if self._collector.pid is None:
                    self._replace()
        self._collector.stop()

    def _replace(self) -> None:
        self._collector.stop(0)
        self._collector = self._new_collector()
        with suppress(CollectorError):  # killed while it started: the next round makes another
            self._collector.start()
            self.collectors += 1


def _line(number: int) -> str:
    return f"Mar  1 09:00:00 web-9 app[1]: line {number:06d} of the tailed file"
