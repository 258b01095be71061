"""What a noisy tenant does to a quiet one: the quiet one's latency alone, and beside a neighbour that never stops.

Run: python -m bench.fairness [SECONDS]. Starts a system of its own. The noise comes from a process of its own, so
that it does not delay the quiet sender's clock. It ignores Retry-After: that is what makes it noise.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass

from bench.figures import Figure, keep
from bench.load import LoadResult, export_request, percentile, send_load
from bench.system import System, new_tenant, running_system

COMMAND = "python -m bench.fairness"
_QUIET_RECORDS, _QUIET_PER_S = 10, 5.0
_NOISE_RECORDS, _NOISE_CONNECTIONS = 1000, 8
_NOISE_QUOTA = 1000.0
_SETTLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Phase:
    """What the quiet tenant saw (seconds; requests refused), and what the noise did meanwhile."""

    name: str
    latencies: list[float]
    refused: int
    noise: dict[str, float]

    def line(self, alone: Phase | None) -> str:
        """The phase as a line of the table, with its ratios to the quiet tenant alone."""
        p50, p99 = (percentile(self.latencies, share) * 1000 for share in (0.5, 0.99))
        ratio = ""
        if alone is not None:
            ratios = (percentile(self.latencies, s) / percentile(alone.latencies, s) for s in (0.5, 0.99))
            ratio = "  ratio p50 {:.2f}, p99 {:.2f}".format(*ratios)
        noise = "".join(f"  {name} {value:,.0f}" for name, value in self.noise.items())
        seen = f"n {len(self.latencies)}  p50 {p50:6.1f} ms  p99 {p99:6.1f} ms  refused {self.refused}"
        return f"{self.name:30} {seen}{ratio}{noise}"


def measure(system: System, seconds: float) -> list[Phase]:
    """The quiet tenant alone, beside a neighbour over its quota, and beside one that saturates within its weight."""
    with system.administrator() as admin:
        quiet, noisy = new_tenant(admin, "quiet", "ingest"), new_tenant(admin, "noisy", "ingest")
        _load(system, quiet, 2.0, "warm")
        alone = Phase("alone", *_load(system, quiet, seconds, "alone"), {})
        limit = {"records_per_s": _NOISE_QUOTA, "burst_s": 1}
        admin.put("/api/admin/tenants/noisy/quota", json=limit).raise_for_status()
        over = _beside_noise(system, quiet, noisy, seconds, "beside one over its quota")
        unlimited = {"records_per_s": 0, "bytes_per_s": 0, "max_backlog": 0}
        admin.put("/api/admin/tenants/noisy/quota", json=unlimited).raise_for_status()
        within = _beside_noise(system, quiet, noisy, seconds, "beside one that saturates")
    return [alone, over, within]


def figures(phases: list[Phase]) -> list[Figure]:
    """The quiet tenant's p99 alone, and what each kind of neighbour makes of it."""
    alone, *beside = phases
    base = percentile(alone.latencies, 0.99)
    ratios = [
        Figure(
            f"quiet tenant's p99 {phase.name}", percentile(phase.latencies, 0.99) / base, "ratio", 1.1, "lower", COMMAND
        )
        for phase in beside
    ]
    return [Figure("quiet tenant's p99 alone", base * 1000, "ms", None, "lower", COMMAND), *ratios]


def _load(system: System, key: str, seconds: float, run: str) -> tuple[list[float], int]:
    bodies = [export_request(_QUIET_RECORDS, seed, time.time_ns()) for seed in range(16)]
    url = f"{system.base_url}/v1/logs"
    load = asyncio.run(send_load(url, key, bodies, connections=1, seconds=seconds, rate=_QUIET_PER_S, run=run))
    return load.latencies, load.refused


def _beside_noise(system: System, quiet: str, noisy: str, seconds: float, name: str) -> Phase:
    cpu = system.cpu_seconds()
    command = [sys.executable, "-m", "bench.fairness", "--noise", f"{system.base_url}/v1/logs", noisy]
    noise = subprocess.Popen([*command, str(seconds + _SETTLE_S), name], stdout=subprocess.PIPE)
    try:
        time.sleep(_SETTLE_S)
        latencies, refused = _load(system, quiet, seconds, name)
        told = json.loads(noise.communicate(timeout=60)[0])
    finally:
        noise.kill()
        noise.wait()
    answered = told["taken"] + told["refused"]
    told["server CPU µs an answer"] = (system.cpu_seconds() - cpu) / max(1.0, answered) * 1e6
    return Phase(name, latencies, refused, told)


def _noise(url: str, key: str, seconds: float, run: str) -> dict[str, float]:
    bodies = [export_request(_NOISE_RECORDS, 500 + seed, time.time_ns()) for seed in range(16)]
    load: LoadResult = asyncio.run(
        send_load(url, key, bodies, connections=_NOISE_CONNECTIONS, seconds=seconds, rate=None, run=run)
    )
    return {
        "taken": load.requests,
        "refused": load.refused,
        "answers a second": (load.requests + load.refused) / seconds,
    }


def main() -> None:
    """Prints the table; the child process that makes the noise prints what it did."""
    if sys.argv[1:2] == ["--noise"]:
        _, _, url, key, seconds, run = sys.argv
        sys.stdout.write(json.dumps(_noise(url, key, float(seconds), run)))
        return
    with running_system() as system:
        phases = measure(system, float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)
    for phase in phases:
        sys.stdout.write(phase.line(None if phase is phases[0] else phases[0]) + "\n")
    sys.stdout.write(f"kept in {keep(figures(phases))}\n")


if __name__ == "__main__":
    main()
