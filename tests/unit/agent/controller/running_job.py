"""A job run for tests of one executor: the real policy and output, checkpoints kept in memory."""

from __future__ import annotations

import uuid
from typing import Any

from agent.controller.job_run import JobOutput
from agent.host_policy import HostPolicy
from agent.jobs import Job
from tests.unit.agent.controller.control_server import AGENT, TENANT, now_ms


class RunningJob:
    """What an executor is given."""

    def __init__(self, kind: str, args: dict[str, Any], policy: HostPolicy, *, dry_run: bool = False) -> None:
        now = now_ms()
        self.job = Job(uuid.uuid4(), TENANT, AGENT, kind, args, now, now, now + 60_000, "key", "jk-1", dry_run)
        self.policy = policy
        self.lease = str(uuid.uuid4())
        self.checkpoint: dict[str, Any] | None = None
        self.output = JobOutput()

    def write(self, text: str) -> None:
        self.output.write(text + "\n")

    def note(self, data: dict[str, Any]) -> None:
        self.checkpoint = data

    def now_ms(self) -> int:
        return now_ms()

    def wait(self, seconds: float) -> bool:
        import time

        time.sleep(seconds)
        return False
