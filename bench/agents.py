"""What agents that wait for jobs cost one replica: `python -m bench.agents [--agents 10000]`.

The Control API with its real doors, keys and database in a process of its own; the agents are connections of this one,
each with its own signing key, which poll for half a minute, again and again. TLS is not part of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import quantiles
from typing import Final

import asyncpg
import psutil

from agent.contract import SigningKey, new_nonce, sign
from bench.figures import Figure, keep, show
from cluster.certificates import CertificateAuthority
from cluster.postgres import DATABASE, SUPERUSER, EmbeddedPostgres
from detect.record import TenantId
from serve.signing_masters import ensure_master, load_masters
from store.bootstrap import bootstrap
from store.jobs import NewJob, create_job
from store.migrate import migrate
from store.postgres import Pool, connect_pool, tenant_transaction
from store.tenants import create_tenant

COMMAND: Final = "python -m bench.agents"
AGENTS: Final = 10_000
JOBS: Final = 300
_PATH: Final = "/agent/jobs/pull"
_WAIT_S: Final = 30
_BASE: Final = {"version": "1.0", "started_at": 1_765_400_000_000, "status": "ok", "lag_s": 0.5}
# A poll says how the agent is, as a real one does.
_BODY: Final = json.dumps(
    {"wait_s": _WAIT_S, "most": 16, "health": _BASE | {"spool": {"records": 1, "bytes": 1000}}}
).encode()
_SEED: Final = """
INSERT INTO signing_keys (tenant_id, key_id, agent, master)
    SELECT $1, 'k' || lpad(n::text, 11, '0'), 'agent-' || n, 1 FROM generate_series(0, $2::int - 1) AS n;
"""
_SEED_AGENTS: Final = """
INSERT INTO agents (tenant_id, agent, labels, result_key, signing_key, version, platform, enrolled_by)
    SELECT $1, 'agent-' || n, '{}', sha256('k'), 'k' || lpad(n::text, 11, '0'), '1.0', 'bench', 'bench'
    FROM generate_series(0, $2::int - 1) AS n;
"""


@dataclass(slots=True)
class Fleet:
    """The simulated agents: what they have heard, and when which job reached one."""

    tenant: TenantId
    port: int
    keys: list[SigningKey]
    polls: int = 0
    broken: int = 0
    put_off: int = 0
    last_trouble: str = ""
    seen: dict[str, float] = field(default_factory=dict)
    stopped: bool = False

    async def agent(self, number: int, after_s: float) -> None:
        """One agent: polls until the fleet is stopped."""
        await asyncio.sleep(after_s)
        key = self.keys[number]
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        while not self.stopped:
            try:
                if reader is None or writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(self._request(key))
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
                body = await reader.readexactly(size)
                if wait := self._heard(head, body):
                    await asyncio.sleep(wait)
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                self.broken += 1
                self.last_trouble = repr(error)
                reader = writer = None
                await asyncio.sleep(random.uniform(0.5, 2))

    def _heard(self, head: bytes, body: bytes) -> float:
        """Takes an answer; seconds to stay away, as agents do when they are told to come back later."""
        if head.startswith(b"HTTP/1.1 503"):
            self.put_off += 1
            self.last_trouble = body[:200].decode(errors="replace")
            stated = head.lower().partition(b"retry-after:")[2].split(b"\r\n", 1)[0]
            return float(stated or 1) + random.uniform(0, _WAIT_S)
        if not head.startswith(b"HTTP/1.1 200"):
            raise ValueError(head[:40] + body[:200])
        self.polls += 1
        now = time.monotonic()
        for item in json.loads(body)["items"]:
            self.seen[json.loads(item["job"])["id"]] = now
        return 0.0

    def _request(self, key: SigningKey) -> bytes:
        signed = sign(
            key,
            method="POST",
            path=_PATH,
            client_id=str(self.tenant),
            body=_BODY,
            idempotency_key="poll",
            timestamp_ms=time.time_ns() // 1_000_000,
            nonce=new_nonce(),
        )
        headers = {"Host": "edge", "Content-Length": str(len(_BODY)), **signed.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {_PATH} HTTP/1.1\r\n{lines}\r\n".encode("ascii") + _BODY


async def measure(agents: int = AGENTS, seconds: float = 60.0) -> list[Figure]:
    """So many agents on one replica: CPU of replica and database, memory, and how fast a job reaches its agent."""
    needed = agents + 500
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard) if hard > 0 else needed, hard))
    folder = Path(tempfile.mkdtemp(prefix="trustsoc-bench-"))
    folder.chmod(0o711)
    postgres = EmbeddedPostgres(folder)
    try:
        postgres.start()
        tenant = await _prepared(postgres, folder, agents)
        with _Replica(folder, postgres.dsn("trustsoc_app"), postgres.dsn("trustsoc_writer")) as replica:
            masters = load_masters(folder / "signing")
            names = [f"k{number:011}" for number in range(agents)]
            keys = [SigningKey(name, masters.secret_text(1, tenant, name)) for name in names]
            fleet = Fleet(tenant, replica.port, keys)
            tasks = [asyncio.create_task(fleet.agent(n, random.uniform(0, _WAIT_S))) for n in range(agents)]
            try:
                await asyncio.sleep(_WAIT_S + 10)
                return await _figures(fleet, replica, postgres, agents, seconds)
            finally:
                fleet.stopped = True
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def _figures(
    fleet: Fleet, replica: _Replica, postgres: EmbeddedPostgres, agents: int, seconds: float
) -> list[Figure]:
    database = _family(postgres)
    polls, broken, put_off = fleet.polls, fleet.broken, fleet.put_off
    spent, spent_there, began = replica.cpu(), _cpu(database), time.monotonic()
    await asyncio.sleep(seconds)
    passed = time.monotonic() - began
    polled = fleet.polls - polls
    cpu, cpu_there = (replica.cpu() - spent) / passed, (_cpu(database) - spent_there) / passed
    delays = await _delays(fleet, postgres, agents)
    cuts = quantiles(delays, n=100)
    name = f"{agents} agents on a replica"
    return [
        Figure(f"{name}: CPU of the replica", cpu * 100, "% of a core", 100, "lower", COMMAND),
        Figure(f"{name}: CPU an agent, replica", cpu / agents * 1e6, "µs/s", None, "lower", COMMAND),
        Figure(f"{name}: CPU an agent, database", cpu_there / agents * 1e6, "µs/s", None, "lower", COMMAND),
        Figure(f"{name}: CPU a poll, replica", cpu * passed / max(polled, 1) * 1e3, "ms", None, "lower", COMMAND),
        Figure(f"{name}: polls", polled / passed, "1/s", None, "higher", COMMAND),
        Figure(f"{name}: polls broken off", fleet.broken - broken, "polls", 0, "lower", COMMAND),
        Figure(f"{name}: polls put off (503)", fleet.put_off - put_off, "polls", 0, "lower", COMMAND),
        Figure(f"{name}: memory of the replica", replica.rss() / 2**20, "MiB", None, "lower", COMMAND),
        Figure(f"{name}: job made to job received, p50", cuts[49] * 1e3, "ms", None, "lower", COMMAND),
        Figure(f"{name}: job made to job received, p99", cuts[98] * 1e3, "ms", None, "lower", COMMAND),
    ]


async def _delays(fleet: Fleet, postgres: EmbeddedPostgres, agents: int) -> list[float]:
    """Seconds from the commit of a job to its arrival, ten jobs a second for agents by chance."""
    pool = await connect_pool(postgres.dsn("trustsoc_app"), name="bench", max_size=2)
    made: dict[str, float] = {}
    try:
        for number in range(JOBS):
            job = await _job(pool, fleet.tenant, f"agent-{random.randrange(agents)}", number)
            made[job] = time.monotonic()
            await asyncio.sleep(0.1)
        await asyncio.sleep(3)
    finally:
        await pool.close()
    missing = made.keys() - fleet.seen.keys()
    if missing:
        raise RuntimeError(f"{len(missing)} of {JOBS} jobs did not arrive; {fleet.broken} polls: {fleet.last_trouble}")
    return [max(0.0, fleet.seen[job] - moment) for job, moment in made.items()]


async def _job(pool: Pool, tenant: TenantId, agent: str, number: int) -> str:
    now = datetime.now(UTC)
    new = NewJob(agent, "PING", "{}", f"bench-{number}", now, now + timedelta(hours=1))
    async with tenant_transaction(pool, tenant) as tx:
        made, _ = await create_job(tx, new, actor="bench", approval=False, now=now)
    return str(made.job_id)


async def _prepared(postgres: EmbeddedPostgres, folder: Path, agents: int) -> TenantId:
    await bootstrap(postgres.dsn(SUPERUSER), postgres.passwords)
    await migrate(postgres.dsn("trustsoc_owner"))
    ensure_master(folder / "signing")
    CertificateAuthority(folder / "tls").create(["localhost"], datetime.now(UTC))
    pool = await connect_pool(postgres.dsn("trustsoc_app"), name="bench", max_size=1)
    tenant = await create_tenant(pool, "bench", actor="bench")
    await pool.close()
    superuser = await asyncpg.connect(postgres.dsn(SUPERUSER, DATABASE))
    await superuser.execute(_SEED, tenant, agents)
    await superuser.execute(_SEED_AGENTS, tenant, agents)
    await superuser.execute("ANALYZE")
    await superuser.close()
    return tenant


class _Replica:
    """The Control API in a process of its own, on a free port of loopback."""

    def __init__(self, folder: Path, app_dsn: str, writer_dsn: str) -> None:
        environment = os.environ | {
            "TRUSTSOC_DATA_DIR": str(folder),
            "TRUSTSOC_APP_DSN": app_dsn,
            "TRUSTSOC_WRITER_DSN": writer_dsn,
        }
        command = [sys.executable, "-m", "bench.agents_replica"]
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self._watched = psutil.Process(self._process.pid)

    def __enter__(self) -> _Replica:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        times = self._watched.cpu_times()
        return times.user + times.system

    def rss(self) -> int:
        """Bytes of memory now."""
        return int(self._watched.memory_info().rss)


def _family(postgres: EmbeddedPostgres) -> list[psutil.Process]:
    [file] = postgres.cluster_dir.glob("**/postmaster.pid")
    pid = int(file.read_text().splitlines()[0])
    head = psutil.Process(pid)
    return [head, *head.children()]


def _cpu(processes: list[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        if process.is_running():
            times = process.cpu_times()
            total += times.user + times.system
    return total


def main() -> int:
    """Measures, prints, keeps; exit status 1 when a figure is on the wrong side of its floor."""
    parser = argparse.ArgumentParser(prog="python -m bench.agents", description=__doc__)
    parser.add_argument("--agents", type=int, default=AGENTS)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    figures = asyncio.run(measure(given.agents, given.seconds))
    keep(figures)
    show(figures)
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
