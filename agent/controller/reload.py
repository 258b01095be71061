"""Telling other programs of the host to read their files again: a signal to whom a pid file names, or a command."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

from agent.controller.executor import INTERRUPTED, Arguments, Ending, JobFailed, JobRejected, JobRun
from agent.controller.service import run_command
from agent.controller.settings import ReloadSettings


def reload_targets(targets: ReloadSettings) -> list[str]:
    """What would be told, in words."""
    command = ["run " + " ".join(targets.command)] if targets.command else []
    return [f"SIGHUP to the process of {file}" for file in targets.pid_files] + command


def reload_all(targets: ReloadSettings) -> list[str]:
    """Tells all of them; returns the troubles, empty when there were none."""
    troubles = [trouble for file in targets.pid_files if (trouble := _signalled(Path(file)))]
    if targets.command and (trouble := run_command(targets.command)):
        troubles.append(trouble)
    return troubles


class RulesReload:
    """RULES_RELOAD: tells what runs rules on this host (such as the forwarder's masking) to read them again."""

    type: Final = "RULES_RELOAD"

    def __init__(self, targets: ReloadSettings) -> None:
        self._targets = targets

    def run(self, run: JobRun) -> Ending:
        """Reloads; rejected where the host has nothing to reload, failed where one of the targets could not be told."""
        Arguments(run.job.args).done()
        told = reload_targets(self._targets)
        if not told:
            raise JobRejected("nothing_to_reload", "nothing on this host runs rules: see `rules` of controller.yml")
        for line in told:
            run.write(line)
        if run.job.dry_run:
            return Ending("succeeded", "dry_run", "", {"targets": list(told)})
        troubles = reload_all(self._targets)
        if troubles:
            raise JobFailed("not_reloaded", "; ".join(troubles)[:2000], {"targets": list(told)})
        return Ending("succeeded", "", "", {"targets": list(told)})

    def resume(self, run: JobRun) -> Ending:
        """Reloading twice does no harm, but nobody waits for the second time."""
        return INTERRUPTED


def _signalled(file: Path) -> str:
    """Empty when the process of the pid file got SIGHUP."""
    try:
        pid = int(file.read_text(encoding="ascii").strip())
        if pid <= 1:
            return f"{file} names no process"
        os.kill(pid, signal.SIGHUP)
    except (OSError, ValueError) as error:
        return f"{file}: {error}"
    return ""
