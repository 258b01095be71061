"""`python -m bench.forwarder`: what the secure forwarder costs: records a second and core, memory, start.

The forwarder is a process of its own, fed with gzipped requests over keep-alive connections; it ships to a server that
verifies nothing, over TLS 1.3 with client certificates. Its processor time is counted, both ways included, so that the
figure does not depend on what else the machine does.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import yaml

from bench.figures import Figure, keep, show
from bench.load import export_request, percentile, send_load
from bench.system import free_port
from cluster.certificates import CertificateAuthority
from detect.record import TenantId
from serve.peer import PeerIdentity

COMMAND = "python -m bench.forwarder"
_TOKEN = "the-local-token-of-a-bench"  # noqa: S105
_RECORDS = 1000
_BODIES = 32
_SECONDS = 8.0
_STARTS = 5
_UP_S = 30.0
_DRAIN_S = 60.0


def main() -> int:
    """Prints and keeps the figures; exit status 1 when one is on the wrong side of its floor."""
    with tempfile.TemporaryDirectory(prefix="trustsoc-forwarder-") as folder:
        figures = measure(Path(folder))
    show(figures)
    keep(figures)
    return 0 if all(figure.holds for figure in figures) else 1


def measure(folder: Path) -> list[Figure]:
    """All figures; `folder` takes the spool, so its disk is part of what is measured."""
    tls = _certificates(folder)
    with _null_server(folder, tls) as port:
        config = _config(folder, tls, port)
        starts = [_start_seconds(config, folder) for _ in range(_STARTS)]
        with _forwarder(config, folder) as (process, url):
            load = _load(process, url)
    cores, seconds, records = load["cpu"], load["seconds"], load["records"]
    return [
        Figure("forwarder, per core", records / cores, "records/s/core", 50_000, "higher", COMMAND),
        Figure("forwarder, as it went", records / seconds, "records/s", None, "higher", COMMAND),
        Figure("forwarder p99", load["p99"] * 1000, "ms", None, "lower", COMMAND),
        Figure("forwarder memory, idle", load["rss_idle"] / 1e6, "MB RSS", None, "lower", COMMAND),
        Figure("forwarder memory, loaded, highest", load["rss"] / 1e6, "MB RSS", 60, "lower", COMMAND),
        Figure("forwarder start", min(starts), "s", 1.0, "lower", COMMAND),
    ]


def _load(process: psutil.Process, url: str) -> dict[str, float]:
    bodies = [export_request(_RECORDS, seed, time.time_ns()) for seed in range(_BODIES)]
    rss_idle = process.memory_info().rss
    before = process.cpu_times()
    sent = asyncio.run(_send(url, bodies))
    with httpx.Client(base_url=url) as client:
        deadline = time.monotonic() + _DRAIN_S
        while (books := client.get("/status").json()["books"])["in_flight"] and time.monotonic() < deadline:
            time.sleep(0.05)
    after = process.cpu_times()
    records = sent["requests"] * _RECORDS
    if books["stored"] != records or books["in_flight"]:
        raise RuntimeError(f"{records} records were acknowledged, the books say {books}")
    cpu = after.user + after.system - before.user - before.system
    return {
        "records": records,
        "cpu": cpu,
        "rss": _highest_rss(process.pid),
        "rss_idle": float(rss_idle),
        "seconds": sent["seconds"],
        "p99": sent["p99"],
    }


def _highest_rss(pid: int) -> float:
    """Bytes, at the worst moment of its life."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


async def _send(url: str, bodies: list[bytes]) -> dict[str, float]:
    load = await send_load(
        f"{url}/v1/logs", _TOKEN, _FreshBodies(bodies), connections=4, seconds=_SECONDS, rate=None, run="forwarder"
    )
    if load.refused:
        raise RuntimeError(f"{load.refused} requests were refused")
    return {"requests": load.requests, "seconds": load.seconds, "p99": percentile(load.latencies, 0.99)}


class _FreshBodies(list[bytes]):
    """The bodies round robin, each time with other content: a repeated one would be recognised and not stored."""

    def __init__(self, bodies: list[bytes]) -> None:
        super().__init__(bodies)
        self._given = itertools.count()

    def __getitem__(self, place: Any) -> bytes:
        number = next(self._given)
        url = b"urn:%d" % number
        # One more gzip member: ExportLogsServiceRequest{resource_logs = 1: ResourceLogs{schema_url = 3}}.
        inner = b"\x1a" + bytes([len(url)]) + url
        return super().__getitem__(number % len(self)) + gzip.compress(b"\x0a" + bytes([len(inner)]) + inner, 1)


def _start_seconds(config: Path, folder: Path) -> float:
    began = time.monotonic()
    with _forwarder(config, folder):
        return time.monotonic() - began


@contextmanager
def _forwarder(config: Path, folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    ready, log = folder / "ready", folder / "forwarder.log"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "agent.forwarder", "--config", str(config), "--ready-file", str(ready)]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stderr=output)
    try:
        deadline = time.monotonic() + _UP_S
        while not (ready.exists() and ready.read_text()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the forwarder did not start: {log.read_text()[-2000:]}")
            time.sleep(0.002)
        yield psutil.Process(process.pid), f"http://127.0.0.1:{ready.read_text()}"
    finally:
        process.terminate()
        process.wait(30)


def _certificates(folder: Path) -> Path:
    authority = CertificateAuthority(folder / "tls")
    now = datetime.now(UTC)
    authority.create(["localhost"], now)
    authority.issue_agent("acme", PeerIdentity(TenantId(UUID(int=1)), "bench"), now)
    return authority.folder


def _config(folder: Path, tls: Path, port: int) -> Path:
    (folder / "token").write_text(_TOKEN)
    (folder / "key.json").write_text(json.dumps({"key_id": "k", "secret": "tss_k_bench"}))
    stated = {
        "server": {
            "url": f"https://localhost:{port}",
            "authority": str(tls / "authority.pem"),
            "certificate": str(tls / "agents" / "acme.bench.pem"),
            "key": str(tls / "agents" / "acme.bench.key"),
            "client_id": "acme",
            "signing_key": str(folder / "key.json"),
        },
        "listen": {"token": str(folder / "token"), "port": 0},
        "spool": {"folder": str(folder / "spool")},
    }
    path = folder / "forwarder.yml"
    path.write_text(yaml.safe_dump(stated))
    return path


@contextmanager
def _null_server(folder: Path, tls: Path) -> Iterator[int]:
    """In a process of its own: says that everything is stored."""
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "bench.forwarder", "--null-server", str(port), str(tls)])
    try:
        context = ssl.create_default_context(cafile=str(tls / "authority.pem"))
        context.load_cert_chain(tls / "agents" / "acme.bench.pem", tls / "agents" / "acme.bench.key")
        deadline = time.monotonic() + _UP_S
        while True:
            try:
                httpx.get(f"https://localhost:{port}/", verify=context)
                break
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()


def null_server(port: int, tls: Path) -> None:
    """Serves until it is killed."""
    import uvicorn

    seq = 0

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal seq
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        seq += 1
        headers = [
            (b"x-server-time", str(time.time_ns() // 1_000_000).encode()),
            (b"x-batch-seq", str(seq).encode()),
            (b"x-batch-duplicate", b"false"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    uvicorn.run(
        application,
        port=port,
        host="127.0.0.1",
        lifespan="off",
        log_level="error",
        ssl_certfile=str(tls / "server.pem"),
        ssl_keyfile=str(tls / "server.key"),
        ssl_ca_certs=str(tls / "authority.pem"),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--null-server"]:
        null_server(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit(main())
