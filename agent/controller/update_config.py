"""UPDATE_CONFIG: another configuration for the collector, tried out and taken back when it does not stay healthy."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Protocol

from agent.controller.collector_configs import CollectorConfigs
from agent.controller.config_check import check_config, plain_config
from agent.controller.control_client import Refused, Unreachable
from agent.controller.executor import INTERRUPTED, Arguments, Ending, JobFailed, JobRejected, JobRun
from agent.controller.said import without_values
from agent.controller.service import Service, ServiceTrouble, healthy_for, run_command
from agent.host_policy import ConfigPolicy

_DIGEST = re.compile(r"[0-9a-f]{64}")
_VALIDATE_S: Final = 30.0


class GetBytes(Protocol):
    """How bytes are fetched from the Control API; raises Unreachable, Refused."""

    def __call__(self, path: str, *, most_bytes: int, timeout_s: float = ...) -> bytes:
        """The bytes at that path."""


class UpdateConfig:
    """Fetches by digest, checks against the host's policy and by the collector itself, then tries it out.

    `binary` validates; `env` are the collector's variables; the candidate must live for `health_s` seconds.
    """

    type: Final = "UPDATE_CONFIG"

    def __init__(
        self,
        configs: CollectorConfigs,
        service: Service,
        get: GetBytes,
        *,
        binary: Path,
        env: dict[str, str],
        health_s: float,
    ) -> None:
        self._configs = configs
        self._service = service
        self._get = get
        self._binary = binary
        self._env = env
        self._health_s = health_s

    def run(self, run: JobRun) -> Ending:
        """Carries the job out."""
        digest = _digest_of(run)
        if digest == self._configs.state.running:
            if not run.job.dry_run:
                self._configs.confirm()
            return Ending("succeeded", "", "this configuration runs already", self._data(digest, changed=False))
        path = self._fetched(run, digest)
        if run.job.dry_run:
            run.write("the configuration is valid and allowed; it was not tried")
            return Ending("succeeded", "dry_run", "", self._data(digest, changed=False))
        run.note({"digest": digest})
        self._configs.try_out(digest)
        run.write(f"trying {path.name} for {self._health_s:g} s")
        trouble = self._trial(run)
        if trouble:
            self._configs.fail(trouble)
            back = self._put_back()
            run.write(f"rolled back: {trouble}")
            raise JobFailed("unhealthy", f"{trouble}{back}"[:2000], self._data(digest, changed=False))
        self._configs.settle()
        return Ending("succeeded", "", "", self._data(digest, changed=True))

    def resume(self, run: JobRun) -> Ending:
        """By now `CollectorConfigs.recover` has put back what a crash left in a trial."""
        if run.checkpoint is None:
            return INTERRUPTED
        digest = str(run.checkpoint.get("digest"))
        state = self._configs.state
        if state.running == digest and state.state == "applied":
            return Ending("succeeded", "", "", self._data(digest, changed=True))
        data = self._data(digest, changed=False)
        return Ending("failed", "interrupted", "the controller ended during the trial; rolled back", data)

    def _fetched(self, run: JobRun, digest: str) -> Path:
        policy = run.policy.update_config
        try:
            data = self._get(f"/agent/policies/{digest}", most_bytes=policy.most_bytes)
        except (Unreachable, Refused) as error:
            raise JobFailed("not_fetched", f"the configuration could not be fetched: {error}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise JobFailed("wrong_digest", "what the server sent has another digest than the job says")
        problems, plain = _judged(data, policy)
        if problems:
            detail = "; ".join(problems)[:2000]
            self._configs.refuse(digest, detail)
            raise JobRejected("host_policy", detail, self._data(digest, changed=False))
        path = self._configs.keep(digest, plain)
        said = run_command([str(self._binary), "validate", f"--config={path}"], env=self._env, timeout_s=_VALIDATE_S)
        if said:
            said = without_values(said, self._env)
            self._configs.refuse(digest, said)
            raise JobFailed("invalid_config", said[:2000], self._data(digest, changed=False))
        return path

    def _trial(self, run: JobRun) -> str:
        try:
            self._service.restart()
        except ServiceTrouble as trouble:
            return str(trouble)
        return healthy_for(self._service, self._health_s, run.wait)

    def _put_back(self) -> str:
        if not self._configs.state.running:
            self._service.stop()
            return ""
        try:
            self._service.restart()
        except ServiceTrouble as trouble:
            return f"; the configuration before it did not start either: {trouble}"
        return ""

    def _data(self, digest: str, *, changed: bool) -> dict[str, Any]:
        return {"config": asdict(self._configs.state), "digest": digest, "changed": changed}


def _digest_of(run: JobRun) -> str:
    arguments = Arguments(run.job.args)
    arguments.text("policy", most=200)
    arguments.number("version", least=1)
    digest = arguments.text("digest")
    arguments.done()
    if not _DIGEST.fullmatch(digest):
        raise JobRejected("bad_arguments", "digest must be 64 lower-case hex digits")
    return digest


def _judged(data: bytes, policy: ConfigPolicy) -> tuple[list[str], bytes]:
    """What the policy does not allow; and, when that is nothing, what to give to the collector."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return ["the configuration is not UTF-8"], b""
    problems = check_config(text, policy)
    return problems, b"" if problems else plain_config(text)
