"""The loop: ask for a job, hold it against signature, memory and policy, carry it out, tell what came of it.

What was started is remembered before it starts, so no job runs twice, whatever ends the controller and however often
the server sends it. Results are told until the server takes them, also after a restart.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from agent.canonical import MOST_INTEGER, NotCanonical, canonical
from agent.controller.backoff import Backoff
from agent.controller.control_client import ControlClient, Refused, Unreachable
from agent.controller.executor import Ending, Executor, JobFailed, JobRejected, ToBeContinued
from agent.controller.health import HealthReport
from agent.controller.identity import IdentityError, IdentityFolder
from agent.controller.job_run import HostJobRun, OutputStream
from agent.controller.said import printable
from agent.executed import ExecutedJobs, MemoryFull, Outcome, RememberedJob
from agent.host_policy import HostPolicy, HostPolicyError, read_host_policy
from agent.jobs import (
    MOST_DETAIL,
    Job,
    JobRefused,
    Result,
    ResultState,
    read_job,
    sign_result,
    verify_job,
)

logger = logging.getLogger("trustsoc.controller")

_WAIT_S: Final = 25
_MOST_DATA: Final = 65_536


class Controller:
    """One agent's loop, in one thread; another one carries output while a job runs, over a connection of its own."""

    def __init__(
        self,
        *,
        identity: IdentityFolder,
        client: ControlClient,
        journal: ExecutedJobs,
        executors: Mapping[str, Executor],
        policy_path: Path,
        health: HealthReport,
        stopping: threading.Event,
        wait_s: int = _WAIT_S,
    ) -> None:
        self._folder = identity
        self._identity = identity.read()
        self._result_key = identity.result_key()
        self._client = client
        self._stream = client.sibling()
        self._journal = journal
        self._executors = executors
        self._policy_path = policy_path
        self._health = health
        self._stopping = stopping
        self._wait_s = wait_s

    def run(self, each_turn: Callable[[], None] = lambda: None) -> None:
        """Until it is asked to stop; `each_turn` is called before every poll."""
        try:
            self._loop(each_turn)
        finally:
            self._client.reconnect()
            self._stream.reconnect()

    def _loop(self, each_turn: Callable[[], None]) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            wait = 0.0
            try:
                each_turn()
                wait = self.turn()
                backoff.reset()
                self._health.trouble("poll", "")
            except Unreachable as error:
                wait = backoff.next(error.retry_after_s)
                logger.warning("the server does not answer: %s; again in %.1f s", error, wait)
            except Refused as error:
                # Credentials can be mended while this waits; hurrying mends nothing.
                wait = backoff.next(30.0)
                logger.error("the server refuses this agent: %s; again in %.1f s", error, wait)
            except OSError as error:
                wait = backoff.next(5.0)
                self._health.trouble("poll", f"this host's disk refuses: {error.strerror}")
                logger.error("the disk refuses: %s; again in %.1f s", error, wait)
            self._stopping.wait(wait)

    def turn(self) -> float:
        """Ends what was interrupted, tells results, asks once and does what comes; returns seconds to wait then."""
        for known in self._journal.unfinished():
            self._execute(known, resumed=True)
        self._read_signing_key()
        self.tell_results()
        if self._stopping.is_set():
            return 0.0
        before = time.monotonic()
        body = {"wait_s": self._wait_s, "most": 1, "health": self._health.report()}
        answer = self._client.post("/agent/jobs/pull", body, timeout_s=self._wait_s + 15.0)
        self._take_job_keys(answer.get("job_keys"))
        items = answer.get("items")
        for item in items if isinstance(items, list) else ():
            if self._stopping.is_set():
                return 0.0
            self.handle(item)
            self.tell_results()
        # A server that does not hold the poll is asked at the pace that it named at enrolment.
        quick = not items and time.monotonic() - before < self._wait_s / 2
        return float(self._identity.poll_s) if quick else 0.0

    def handle(self, item: Any) -> None:
        """Verifies one delivered job and carries it out, rejects it, or answers with what came of it before."""
        try:
            text, signature = item["job"].encode(), item["signature"]
            lease, attempt = UUID(item["lease"]), item["attempt"]
            # Neither is signed, and no result could be told that names another kind of number.
            if type(attempt) is not int or not 0 <= attempt <= MOST_INTEGER:
                raise ValueError("attempt must be an integer, 0 or more")
        except (KeyError, TypeError, ValueError, AttributeError):
            logger.error("the server sent something that is no job")
            return
        try:
            job = self._verified(text, signature)
        except JobRefused as refusal:
            logger.warning("a job was refused: %s: %s", refusal.reason, refusal)
            self._turn_down(text, lease, attempt, refusal.reason, str(refusal))
            return
        known = self._journal.find(job.id)
        # The server may have signed it with another key since; all else must be the same.
        if known is not None and replace(job, key_id=known.job.key_id) == known.job:
            self._journal.lease(known, lease, attempt)
            logger.info("job %s came again", job.id)
        elif known is not None or self._journal.find_key(job.idempotency_key) is not None:
            detail = "another job of this id or idempotency key was given to this agent before"
            self._turn_down(text, lease, attempt, "repeated", detail)
        elif self._journal.forgotten(job):
            detail = "this agent no longer knows whether it ran the job: issue it anew"
            self._turn_down(text, lease, attempt, "forgotten", detail)
        else:
            try:
                known = self._journal.start(job, lease=lease, attempt=attempt, now_ms=_now_ms())
            except MemoryFull as error:
                self._turn_down(text, lease, attempt, "memory_full", str(error))
                return
            self._execute(known, resumed=False)

    def tell_results(self) -> None:
        """Sends every result that the server has not taken. Raises Unreachable; Refused for bad credentials."""
        for known in self._journal.unacknowledged():
            if known.outcome is None:
                continue
            try:
                self._post_result(_result(known, self._identity.agent, known.outcome))
            except Refused as error:
                if error.status in (401, 403):
                    raise
                # 404 and 409: the job is not, or no longer, this attempt's; if it comes again, so does the result.
                logger.warning("the result of job %s is not wanted: %s", known.id, error)
            self._journal.acknowledge(known, _now_ms())

    def _verified(self, text: bytes, signature: Any) -> Job:
        _, keys = self._folder.job_keys()
        return verify_job(text, signature, keys, _now_ms(), self._identity.tenant, self._identity.agent)

    def _execute(self, known: RememberedJob, *, resumed: bool) -> None:
        started = known.started_at if resumed else _now_ms()
        run: HostJobRun | None = None
        try:
            policy = self._allowed(known, resumed=resumed)
            run = HostJobRun(known, policy, self._journal, _now_ms, self._stopping)
            executor = self._executors[known.type]
            if not resumed:
                self._say_running(known, started)
            with OutputStream(run, self._stream.post):
                ending = executor.resume(run) if resumed else executor.run(run)
        except ToBeContinued as pause:
            logger.info("job %s (%s) goes on after the next start: %s", known.id, known.type, pause)
            return
        except JobRejected as error:
            ending = Ending("rejected", error.reason, str(error), error.data)
        except JobFailed as error:
            ending = Ending("failed", error.reason, str(error), error.data)
        except Exception as error:
            logger.exception("job %s failed in an unforeseen way", known.id)
            ending = Ending("failed", "internal", f"{type(error).__name__}: {error}")
        output = run.output if run is not None else None
        outcome = Outcome(
            state=ending.state,
            reason=ending.reason,
            detail=printable(ending.detail)[:MOST_DETAIL],
            output=output.text if output is not None else "",
            output_truncated=output is not None and output.truncated,
            started_at=started,
            ended_at=max(1, _now_ms()),
            data=_canonical_data(ending.data),
        )
        self._journal.finish(known, outcome)
        logger.info("job %s (%s): %s %s", known.id, known.type, outcome.state, outcome.reason)

    def _allowed(self, known: RememberedJob, *, resumed: bool) -> HostPolicy:
        """The policy as it is now. Raises JobRejected for what it does not let start."""
        if known.type not in self._executors:
            raise JobRejected("unknown_type", f"this agent knows no jobs of the type {known.type}")
        try:
            policy = read_host_policy(self._policy_path)
        except HostPolicyError as error:
            self._health.trouble("policy", str(error))
            if resumed:
                return HostPolicy(jobs={})
            raise JobRejected("policy_unreadable", str(error)) from error
        self._health.trouble("policy", "")
        if resumed:
            return policy
        rate = policy.jobs.get(known.type)
        if rate is None:
            raise JobRejected("host_policy", f"the owner of this host allows no jobs of the type {known.type}")
        starts = self._journal.starts(known.type)
        starts.remove(known.started_at)
        if not rate.allows(starts, known.started_at):
            detail = f"{rate.count} jobs of the type {known.type} in {rate.seconds} s are allowed here"
            raise JobRejected("over_rate", detail)
        return policy

    def _say_running(self, known: RememberedJob, started: int) -> None:
        nothing = {"reason": "", "detail": "", "output": "", "output_truncated": False, "data": {}}
        times = {"started_at": started, "ended_at": 0}
        try:
            self._post_result(_built(known, self._identity.agent, "running", nothing | times))
        except (Unreachable, Refused) as error:
            logger.warning("the server could not be told that job %s runs: %s", known.id, error)

    def _turn_down(self, text: bytes, lease: UUID, attempt: int, reason: str, detail: str) -> None:
        """Answers a job that this agent does not even remember. One whose id cannot be read gets no answer."""
        try:
            job_id = read_job(text).id
        except JobRefused:
            return
        now = max(1, _now_ms())
        result = Result(
            job=job_id,
            lease=lease,
            attempt=attempt,
            agent=self._identity.agent,
            state="rejected",
            reason=reason,
            detail=printable(detail)[:MOST_DETAIL],
            output="",
            output_truncated=False,
            started_at=now,
            ended_at=now,
            data={},
        )
        try:
            self._post_result(result)
        except Refused as error:
            logger.warning("the refusal of job %s is not wanted: %s", job_id, error)

    def _post_result(self, result: Result) -> None:
        text, signature = sign_result(self._result_key, result)
        self._client.post("/agent/jobs/result", {"result": text, "signature": signature})

    def _read_signing_key(self) -> None:
        """A key that its owner puts in place is used from the next poll on; one that cannot be read is not."""
        try:
            key = self._folder.signing_key()
        except IdentityError as error:
            self._health.trouble("signing key", str(error))
            return
        self._health.trouble("signing key", "")
        self._client.use_key(key)
        self._stream.use_key(key)

    def _take_job_keys(self, statement: Any) -> None:
        if not isinstance(statement, dict):
            return
        try:
            taken = self._folder.take_job_keys(str(statement.get("statement")), str(statement.get("signature")))
        except JobRefused as refusal:
            self._health.trouble("job keys", f"the server's job keys were refused: {refusal}")
            logger.error("the server's job keys were refused: %s: %s", refusal.reason, refusal)
            return
        self._health.trouble("job keys", "")
        if taken is not None:
            logger.info("job keys of serial %d are pinned: %s", taken.serial, ", ".join(taken.keys))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _canonical_data(data: dict[str, Any]) -> dict[str, Any]:
    """The data, or what is wrong with them: a result that has no canonical form could never be told."""
    try:
        canonical(data, most_bytes=_MOST_DATA)
    except NotCanonical as error:
        return {"unusable": str(error)}
    return data


def _result(known: RememberedJob, agent: str, outcome: Outcome) -> Result:
    fields = {name: getattr(outcome, name) for name in Outcome.__slots__ if name != "state"}
    return _built(known, agent, outcome.state, fields)


def _built(known: RememberedJob, agent: str, state: ResultState, fields: dict[str, Any]) -> Result:
    return Result(job=known.id, lease=known.lease, attempt=known.attempt, agent=agent, state=state, **fields)
