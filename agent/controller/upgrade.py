"""UPGRADE: another version of the agent's programs, signed by a key that the server does not have.

Versions lie side by side in `versions/<version>`, `current` is a link to the one in use. A package says itself that it
is sound (the command `check` of controller.yml, run inside it) before the link moves; afterwards the service must stay
alive, or the link moves back.

Where the new version is the agent itself (`end_controller`), this controller ends for it to be started, and the new one
ends the job: once its programs are well, or by moving the link back. If it cannot even do that, the guard that runs
before every start (packaging/systemd/trustsoc-agent-guard) moves it back, and the old version says so.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from agent.controller.control_client import Refused, Unreachable
from agent.controller.durable import link_target, point_link, sync_folder, write_whole
from agent.controller.executor import (
    INTERRUPTED,
    Arguments,
    Ending,
    JobFailed,
    JobRejected,
    JobRun,
    ToBeContinued,
)
from agent.controller.package import VERSION_FORM, BadPackage, check_content, check_signature, is_newer, unpack
from agent.controller.service import Service, ServiceTrouble, healthy_for, run_command
from agent.controller.settings import UpgradeSettings

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHECK_S: Final = 60.0


class Download(Protocol):
    """How bytes are fetched into a file; raises Unreachable, Refused."""

    def __call__(self, path: str, sink: BinaryIO, *, most_bytes: int, timeout_s: float = ...) -> None:
        """Writes the bytes at that path."""


class Upgrade:
    """Arguments: `version` (digits and dots), `digest`, `size` and `signature` of the archive."""

    type: Final = "UPGRADE"

    def __init__(
        self,
        settings: UpgradeSettings,
        service: Service,
        download: Download,
        end_controller: Callable[[], None],
        programs_trouble: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._end_controller = end_controller
        self._programs_trouble = programs_trouble
        self._folder = Path(settings.folder)
        self._service = service
        self._download = download

    @property
    def version(self) -> str:
        """The version in use, empty when the link points to none."""
        return (link_target(self._folder / "current") or "").rpartition("/")[2]

    def run(self, run: JobRun) -> Ending:
        """Carries the job out."""
        version, digest, size = self._allowed(run)
        before = self.version
        if version == before:
            return Ending("succeeded", "", "this version is in use already", self._data(version))
        if run.job.dry_run:
            run.write(f"would fetch {version} ({size} bytes), check it and switch from {before or 'none'} to it")
            return Ending("succeeded", "dry_run", "", self._data(version))
        run.note({"version": version, "before": before, "step": "unpack"})
        self._unpacked(run, version, digest, size)
        run.note({"version": version, "before": before, "step": "switch"})
        if self._settings.end_controller:
            write_whole(self._mark, f"{version} {before} 0\n".encode(), 0o644)
        point_link(self._folder / "current", f"versions/{version}")
        trouble = self._trial(run, version)
        if trouble:
            raise self._taken_back(trouble, version, before)
        if self._settings.end_controller:
            # What is wrong already is not the new version's doing.
            known = self._programs_trouble()
            run.note({"version": version, "before": before, "step": "trial", "known": known})
            self._end_controller()
            raise ToBeContinued(f"{version} is to be started and to prove itself")
        return self._passed(run, version, before)

    def resume(self, run: JobRun) -> Ending:
        """One whose trial was cut short is taken back, one that had passed stays; the agent's own is tried here."""
        checkpoint = run.checkpoint
        if checkpoint is None:
            return INTERRUPTED
        version, before, step = (str(checkpoint[name]) for name in ("version", "before", "step"))
        if step == "done":
            return Ending("succeeded", "", "", self._data(version))
        if step == "trial" and self.version == version:
            return self._tried(run, version, before, str(checkpoint["known"]))
        if step == "trial":
            raise self._taken_back("it did not stay up, however often it was started", version, before)
        shutil.rmtree(self._folder / "versions" / f".{version}.partial", ignore_errors=True)
        failure = self._taken_back("the controller ended during the upgrade", version, before)
        return Ending("failed", "interrupted", str(failure), failure.data)

    @property
    def _mark(self) -> Path:
        return self._folder / "trial"

    def _tried(self, run: JobRun, version: str, before: str, known: str) -> Ending:
        """In the new version: whether the agent that it is of is as well as it was (`known`: its trouble then)."""
        if run.wait(self._settings.health_s):
            raise ToBeContinued("the agent was stopped during the trial")
        trouble = self._programs_trouble()
        if trouble not in ("", known):
            raise self._taken_back(trouble, version, before)
        return self._passed(run, version, before)

    def _passed(self, run: JobRun, version: str, before: str) -> Ending:
        self._mark.unlink(missing_ok=True)
        self._drop_others(before)
        run.note({"version": version, "before": before, "step": "done"})
        return Ending("succeeded", "", "", self._data(version))

    def _taken_back(self, trouble: str, version: str, before: str) -> JobFailed:
        """Has the version before in use again, and ends a controller that is of the other one."""
        moved = self.version != before
        back = self._back(before) if moved else ""
        self._mark.unlink(missing_ok=True)
        if moved and self._settings.end_controller:
            # This is the program in that folder, which may need more of it to end.
            self._end_controller()
        else:
            shutil.rmtree(self._folder / "versions" / version, ignore_errors=True)
        detail = f"{trouble}; {before or 'no version'} is in use{back}"
        return JobFailed("unhealthy", detail[:2000], self._data(version))

    def _allowed(self, run: JobRun) -> tuple[str, str, int]:
        arguments = Arguments(run.job.args)
        version, digest = arguments.text("version", most=40), arguments.text("digest")
        size, signature = arguments.number("size", least=1), arguments.text("signature")
        arguments.done()
        if not VERSION_FORM.fullmatch(version) or not _DIGEST.fullmatch(digest):
            raise JobRejected("bad_arguments", "version must be digits and dots, digest 64 lower-case hex digits")
        policy = run.policy.upgrade
        if policy.key is None or not self._settings.folder:
            raise JobRejected("host_policy", "the host's policy names no upgrade key, or its settings no folder")
        if size > policy.most_bytes:
            raise JobRejected("too_large", f"the package has {size} bytes, {policy.most_bytes} are allowed")
        try:
            check_signature(policy.key, signature, version, digest, size)
        except BadPackage as error:
            raise JobRejected("bad_package", str(error)) from error
        # An older version, rightly signed once, may have holes that are known by now.
        if not policy.allow_older and version != self.version and not is_newer(version, self.version):
            raise JobRejected("older_version", f"{version} is older than {self.version}, which is in use")
        return version, digest, size

    def _unpacked(self, run: JobRun, version: str, digest: str, size: int) -> Path:
        versions = self._folder / "versions"
        versions.mkdir(mode=0o755, parents=True, exist_ok=True)
        partial, place = versions / f".{version}.partial", versions / version
        try:
            with tempfile.TemporaryFile(dir=versions) as stream:
                self._download(f"/agent/packages/{digest}", stream, most_bytes=size, timeout_s=120.0)
                check_content(stream, digest, size)
                unpack(stream, partial, run.policy.upgrade.most_unpacked_bytes)
        except (Unreachable, Refused) as error:
            raise JobFailed("not_fetched", f"the package could not be fetched: {error}") from error
        except BadPackage as error:
            raise JobFailed("bad_package", str(error), self._data(version)) from error
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
        sync_folder(versions)
        if self._settings.check:
            program, *arguments = self._settings.check
            trouble = run_command([str(place / program), *arguments], timeout_s=_CHECK_S)
            if trouble:
                shutil.rmtree(place, ignore_errors=True)
                raise JobFailed("unsound", f"the new version's own check failed: {trouble}"[:2000], self._data(version))
        return place

    def _trial(self, run: JobRun, version: str) -> str:
        if not (self._settings.restart or self._settings.alive):
            # Nothing runs from there yet.
            return ""
        run.write(f"{version} is in use; watching it for {self._settings.health_s:g} s")
        try:
            self._service.restart()
        except ServiceTrouble as trouble:
            return str(trouble)
        return healthy_for(self._service, self._settings.health_s, run.wait)

    def _back(self, before: str) -> str:
        link = self._folder / "current"
        if not before:
            link.unlink(missing_ok=True)
            sync_folder(self._folder)
            return ""
        point_link(link, f"versions/{before}")
        try:
            self._service.restart()
        except ServiceTrouble as trouble:
            return f"; {before} did not start again either: {trouble}"
        return ""

    def _drop_others(self, before: str) -> None:
        for place in (self._folder / "versions").iterdir():
            if place.name not in (self.version, before):
                shutil.rmtree(place, ignore_errors=True)

    def _data(self, attempted: str) -> dict[str, Any]:
        return {"running": self.version, "attempted": attempted}
