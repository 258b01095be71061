"""`python -m bench.forwarder`: what the secure forwarder costs: records a second and core, memory, start.

The forwarder is a process of its own, fed with gzipped requests over keep-alive connections; it ships to a server that
verifies nothing, over TLS 1.3 with client certificates. Its processor time is counted, both ways included, so that the
figure does not depend on what else the machine does. Beside it the collector, which tails a file of the same lines and
sends them to the same server, over the same TLS, in requests of the same size.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from agent.collector import Collector, CollectorProfile, render_profile
from bench.figures import Figure, keep, show
from bench.load import export_request, log_lines, percentile, send_load
from bench.null_server import NullServer, null_server

COMMAND = "python -m bench.forwarder"
LOCAL_TOKEN = "the-local-token-of-a-bench"  # noqa: S105
_RECORDS = 1000
_LINES = 400_000
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
    with null_server(folder) as server:
        config = _config(folder, server)
        starts = [_start_seconds(config, folder) for _ in range(_STARTS)]
        with running_forwarder(config, folder) as (process, url):
            load = _load(process, url)
        collector = _collector_rate(folder, server)
    cores, seconds, records = load["cpu"], load["seconds"], load["records"]
    rate = records / cores
    return [
        Figure("forwarder, per core", rate, "records/s/core", 50_000, "higher", COMMAND),
        Figure("collector alone, per core", collector, "records/s/core", None, "higher", COMMAND),
        Figure("forwarder ÷ collector, per core", rate / collector, "ratio", 0.5, "higher", COMMAND),
        Figure("forwarder, as it went", records / seconds, "records/s", None, "higher", COMMAND),
        Figure("forwarder p99", load["p99"] * 1000, "ms", None, "lower", COMMAND),
        Figure("forwarder memory, idle", load["rss_idle"] / 1e6, "MB RSS", None, "lower", COMMAND),
        Figure("forwarder memory, loaded, highest", load["rss"] / 1e6, "MB RSS", 60, "lower", COMMAND),
        Figure("forwarder start", min(starts), "s", 1.0, "lower", COMMAND),
    ]


def _collector_rate(folder: Path, server: NullServer) -> float:
    """Records a second of the collector's processor time, from a file of lines to the server's answers."""
    logs, waiting = folder / "logs", folder / "lines"
    logs.mkdir()
    waiting.write_bytes(b"".join(log_lines(_RECORDS, seed) for seed in range(_LINES // _RECORDS)))
    profile = CollectorProfile((f"{logs}/*.log",), f"https://localhost:{server.port}", "bench", start_at="beginning")
    stated = yaml.safe_load(render_profile(profile))
    files = {"ca_file": server.authority, "cert_file": server.certificate, "key_file": server.key}
    stated["exporters"]["otlphttp"]["tls"] = {name: str(path) for name, path in files.items()}
    with Collector(yaml.safe_dump(stated, sort_keys=False), LOCAL_TOKEN, folder / "collector") as collector:
        process = psutil.Process(collector.pid)
        before = process.cpu_times()
        waiting.rename(logs / "one.log")
        deadline = time.monotonic() + _DRAIN_S
        while (found := server.records()) < _LINES:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{found} of {_LINES} lines arrived: {collector.log_tail()}")
            time.sleep(0.05)
        after = process.cpu_times()
    if found != _LINES:
        raise RuntimeError(f"{found} of {_LINES} lines arrived")
    return _LINES / (after.user + after.system - before.user - before.system)


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
        f"{url}/v1/logs", LOCAL_TOKEN, _FreshBodies(bodies), connections=4, seconds=_SECONDS, rate=None, run="forwarder"
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
    with running_forwarder(config, folder):
        return time.monotonic() - began


@contextmanager
def running_forwarder(config: Path, folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    """A forwarder as a process of its own, which listens, and its address; it drains when the block ends."""
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


def _config(folder: Path, server: NullServer) -> Path:
    (folder / "key.json").write_text(json.dumps({"key_id": "k", "secret": "tss_k_bench"}))
    stated = {
        "url": f"https://localhost:{server.port}",
        "authority": str(server.authority),
        "certificate": str(server.certificate),
        "key": str(server.key),
        "client_id": "acme",
        "signing_key": str(folder / "key.json"),
    }
    return forwarder_config(folder, stated)


def forwarder_config(folder: Path, server: dict[str, str]) -> Path:
    """Settings for a forwarder that sends to this server, with LOCAL_TOKEN, any free port, and defaults else."""
    (folder / "token").write_text(LOCAL_TOKEN)
    stated = {
        "server": server,
        "listen": {"token": str(folder / "token"), "port": 0},
        "spool": {"folder": str(folder / "spool")},
    }
    path = folder / "forwarder.yml"
    path.write_text(yaml.safe_dump(stated))
    return path


if __name__ == "__main__":
    sys.exit(main())
