"""A host of a tenant, enrolled by the command itself: log files, collector, forwarder and controller as real processes.

The test starts forwarder and controller as `trustsoc-agent run` does, but kills and starts them without its pauses.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import yaml

from agent.collector import FileSource, HostProfile
from agent.collector.host_config import render_host_profile
from agent.controller.control_client import ControlClient, TlsFiles
from agent.controller.identity import IdentityFolder
from agent.forwarder.config import read_config
from agent.installation.places import Places
from bench.system import System, free_port
from tests.e2e.conftest import Tenant, wait_for

ROOT = Path(__file__).resolve().parents[2]
POLICY = """\
jobs: {PING: 1000/minute, RULES_RELOAD: 1000/minute, CERT_ROTATE: 100/minute, UPDATE_CONFIG: 100/minute}
update_config: {destinations: [DESTINATION], paths: [LOGS]}
"""
FINAL = {"succeeded", "failed", "rejected", "expired", "cancelled"}


class EnrolledHost:
    """One host. Its programs are started by the test; `close` ends what still runs."""

    def __init__(self, system: System, tenant: Tenant, url: str, folder: Path, name: str) -> None:
        self.system, self.tenant, self.folder, self.name = system, tenant, folder, name
        self.places = Places(folder / "settings", folder / "state")
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)
        self.port = free_port()
        self.began = datetime.now(UTC) - timedelta(minutes=1)
        self.forwarder: subprocess.Popen[bytes] | None = None
        self.controller: subprocess.Popen[bytes] | None = None
        self._enrol(url)
        self._adjust()

    def config(self, *files: str) -> str:
        """A collector's configuration that reads the files of `logs`, each from its first line."""
        include = tuple(f"{self.logs}/{file}" for file in files or ("*.log",))
        source = FileSource("app", include, start_at="beginning")
        endpoint = f"http://127.0.0.1:{self.port}"
        profile = HostProfile(self.name, (source,), endpoint=endpoint, queue="none", poll_milliseconds=50)
        return render_host_profile(profile, "small")

    def _enrol(self, url: str) -> None:
        self.places.settings.mkdir()
        # What is there an enrolment keeps.
        self.places.collector.write_text(self.config())
        policy = POLICY.replace("DESTINATION", f'"http://127.0.0.1:{self.port}"').replace("LOGS", str(self.logs))
        self.places.policy.write_text(policy)
        self.places.policy.chmod(0o600)
        made = self.tenant.client.post("/api/agent-tokens", json={"agent": self.name, "labels": {"role": "test"}})
        assert made.status_code == 201, made.text
        (self.folder / "token").write_text(made.json()["token"])
        words = ["--server", url, "--authority", str(self.system.directory / "tls" / "authority.pem")]
        words += ["--token-file", str(self.folder / "token"), "--name", self.name, "--port", str(self.port)]
        # Where an installed agent's account is, root's enrolment would be for that.
        words += ["--tail", f"{self.logs}/*.log", *(["--user", "root"] if os.geteuid() == 0 else [])]
        done = self.command("enroll", *words)
        assert done.returncode == 0, done.stderr

    def _adjust(self) -> None:
        """Smaller spool and shorter waits than an owner would choose."""
        stated = yaml.safe_load(self.places.forwarder.read_text())
        stated["listen"]["most_body_bytes"] = 65_536
        stated["spool"] |= {"segment_bytes": 65_536, "most_bytes": 262_144}
        stated["ship"] = {"statement_s": 0.5, "refused_retry_s": 0.5, "longest_retry_s": 1.0}
        self.places.forwarder.write_text(yaml.safe_dump(stated))
        stated = yaml.safe_load(self.places.controller.read_text())
        stated["collector"]["health_s"] = 1.0
        stated["rules"] = {"command": ["/bin/sh", str(self.folder / "reload.sh")]}
        self.places.controller.write_text(yaml.safe_dump(stated))
        (self.folder / "reload.sh").write_text(f"echo x >> {self.folder}/effect\n")

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`trustsoc-agent` as an operator types it."""
        command, *rest = words
        folders = ["--settings", str(self.places.settings), "--state", str(self.places.state)]
        argv = [sys.executable, "-m", "agent.cli", command, *folders, *rest]
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    def start_forwarder(self, *prefix: str) -> None:
        """`prefix` are words before the module's own, such as another module that prepares it."""
        assert self.forwarder is None or self.forwarder.poll() is not None
        argv = [*(prefix or ("-m", "agent.forwarder")), "--config", str(self.places.forwarder)]
        with (self.folder / "forwarder.log").open("ab") as log:
            self.forwarder = subprocess.Popen([sys.executable, *argv], cwd=ROOT, stderr=log)
        self.places.running.mkdir(exist_ok=True)
        self.places.forwarder_pid.write_text(f"{self.forwarder.pid}\n")
        wait_for(self.answers, "the forwarder", 60)

    def start_controller(self, *prefix: str) -> None:
        """Starts it with its collector."""
        assert self.controller is None or self.controller.poll() is not None
        argv = [*(prefix or ("-m", "agent.controller")), "--config", str(self.places.controller)]
        with (self.folder / "controller.log").open("ab") as log:
            self.controller = subprocess.Popen([sys.executable, *argv], cwd=ROOT, stderr=log)

    def kill_forwarder(self) -> None:
        """As a crash does."""
        assert self.forwarder is not None
        self.forwarder.kill()
        self.forwarder.wait()

    def stop_controller(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Asks the controller to end, or kills it."""
        assert self.controller is not None
        self.controller.send_signal(number)
        return self.controller.wait(60)

    def close(self) -> None:
        """Ends what still runs."""
        for process in (self.controller, self.forwarder):
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def answers(self) -> bool:
        """Whether the forwarder does."""
        assert self.forwarder is not None
        assert self.forwarder.poll() is None, self.log("forwarder")
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def log(self, program: str) -> str:
        """The end of what it wrote."""
        return (self.folder / f"{program}.log").read_text(errors="replace")[-3000:]

    def status(self) -> dict[str, Any]:
        """The forwarder's words."""
        found: dict[str, Any] = httpx.get(f"http://127.0.0.1:{self.port}/status", timeout=10).json()
        return found

    def counter(self, name: str) -> int:
        """One of its counters, over all labels."""
        page = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=10).text
        found = re.findall(rf"^trustsoc_forwarder_{name}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE)
        return int(sum(float(value) for value in found))

    # What the tenant has.

    def messages(self) -> Counter[str]:
        """Every line that the tenant finds, with how often."""
        self.tenant.await_judged()
        found: Counter[str] = Counter()
        cursor = None
        while True:
            query = {"from": self.began.isoformat(), "limit": 500} | ({"cursor": cursor} if cursor else {})
            page = self.tenant.get("/api/logs", **query)
            found.update(item["message"] for item in page["items"])
            cursor = page["next_cursor"]
            if not cursor:
                return found

    def await_lines(self, lines: list[str]) -> Counter[str]:
        """All lines that the tenant finds, once these are among them and nothing is on its way."""

        def there() -> Counter[str] | None:
            if self.status()["books"]["in_flight"]:
                return None
            return found if set(lines) <= set(found := self.messages()) else None

        try:
            return wait_for(there, "every line", 60)
        except AssertionError:
            missing = sorted(set(lines) - set(self.messages()))
            words = f"{len(missing)} of {len(lines)} lines are missing: {missing[:5]}\n{self.status()}"
            raise AssertionError(f"{words}\n{self.log('forwarder')}") from None

    def ledger(self) -> dict[str, Any]:
        """The ledger's row of the forwarder's run, once its statement holds all that was accepted."""
        books = self.status()["books"]

        def stated() -> dict[str, Any] | None:
            rows = [row for row in self.tenant.get("/api/ledger")["items"] if row["run"] == books["run"]]
            said = rows[0]["statement"] if rows else None
            full = said and (said["accepted"], said["in_flight"]) == (books["accepted"], 0)
            return rows[0] if full else None

        return wait_for(stated, f"a statement of {books}", 30)

    # Jobs.

    def job(self, kind: str, **more: Any) -> str:
        """Makes a job; its id."""
        made = self.tenant.client.post("/api/jobs", json={"agent": self.name, "type": kind} | more)
        assert made.status_code == 201, made.text
        return str(made.json()["job"]["job_id"])

    def job_state(self, job: str) -> dict[str, Any]:
        """The job as the API shows it."""
        found: dict[str, Any] = self.tenant.get(f"/api/jobs/{job}")
        return found

    def await_job(self, job: str, until: Callable[[dict[str, Any]], bool] | None = None) -> dict[str, Any]:
        """The job once it has ended, or is as `until` asks."""

        def there() -> dict[str, Any] | None:
            found = self.job_state(job)
            return found if (until(found) if until else found["state"] in FINAL) else None

        try:
            return wait_for(there, "the job", 60)
        except AssertionError:
            raise AssertionError(f"{self.job_state(job)}\n{self.log('controller')}") from None

    def ping(self) -> dict[str, Any]:
        """A PING's job, once it has ended."""
        return self.await_job(self.job("PING"))

    def effects(self) -> int:
        """How often RULES_RELOAD did what it does here."""
        effect = self.folder / "effect"
        return effect.read_text().count("x") if effect.exists() else 0

    @contextmanager
    def client(self) -> Iterator[ControlClient]:
        """The host's own connection to the Control API, for a test to use."""
        identity = IdentityFolder(self.places.state)
        files = TlsFiles(identity.authority, identity.current / "certificate.pem", identity.current / "key.pem")
        client = ControlClient(identity.read(), identity.signing_key(), files)
        try:
            yield client
        finally:
            client.reconnect()

    def spool_segments(self) -> list[Path]:
        """The files that hold batches, the newest last."""
        folder = read_config(self.places.forwarder).spool.folder
        return sorted(folder.glob("*.seg"), key=lambda path: path.name)


def append(path: Path, *lines: str) -> None:
    """Writes the lines at the file's end."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def numbered(name: str, count: int, size: int = 60) -> list[str]:
    """So many different lines, each of about `size` characters that no compression shortens much."""
    stamp = time.time_ns()
    return [f"{name} {number:05d} {stamp:x} {os.urandom(size // 2).hex()}" for number in range(count)]


def lead_control_to(host: EnrolledHost, url: str) -> None:
    """The controller asks there from its next start on, every second where nobody holds its polls."""
    identity = host.places.state / "identity.json"
    identity.write_text(json.dumps(json.loads(identity.read_text()) | {"control": url, "poll_s": 1}))
