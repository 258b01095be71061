"""What all public rules cost in the running system: real Windows events in, judged and stored, per core.

Run: python -m bench.sigma_system [EVENTS]. The same events go to a tenant with the starter pack alone and to one with
all of SigmaHQ beside it, in turns; one pass of each comes first, so that neither pays for what both need once.
"""

from __future__ import annotations

import gzip
import os
import sys
import tempfile
import time
from pathlib import Path

import httpx

from bench.evaluation_records import DataMissing
from bench.figures import Figure, finish
from bench.system import System, await_judged, new_tenant, running_system, status
from bench.windows_events import kept_requests, natural_events, public_rules, write_requests
from detect.sigma.pack import pack_bytes

COMMAND = "python -m bench.sigma_system"
EVENTS = 10_000
_PASSES = 3
_PACKS = {"starter": ["starter"], "sigmahq": ["starter", "sigmahq"]}
_NAMES = {"starter": "the starter pack", "sigmahq": "the starter pack and SigmaHQ"}
_LIMIT_S = 600.0


def measure(system: System, events: int = EVENTS) -> list[Figure]:
    """Records a second and core, and CPU a record, for each set of rules; the best of some passes."""
    bodies = _bodies(events)
    clients = _tenants(system)
    best: dict[str, tuple[float, float]] = {}
    for number in range(_PASSES + 1):
        for name, client in clients.items():
            rate, cpu = _pass(system, client, bodies[number])
            if number and rate > best.get(name, (0.0, 0.0))[0]:
                best[name] = rate, cpu
    return [figure for name, (rate, cpu) in best.items() for figure in _figures(name, rate, cpu)]


def _figures(name: str, rate: float, cpu: float) -> list[Figure]:
    rules = _NAMES[name]
    return [
        Figure(f"Windows events judged and stored, {rules}", rate, "records/s/core", None, "higher", COMMAND),
        Figure(f"server CPU per Windows event, {rules}", cpu * 1e6, "µs", None, "lower", COMMAND),
    ]


def _bodies(events: int) -> list[list[bytes]]:
    """Requests for each pass, all different: a repeated batch would be known again."""
    with tempfile.TemporaryDirectory(prefix="trustsoc-bench-") as folder:
        path = Path(folder) / "requests"
        write_requests(path, natural_events(events * (_PASSES + 1)), "line")
        requests = [gzip.compress(batch.payload, 1) for batch in kept_requests(path)]
    a_pass = len(requests) // (_PASSES + 1)
    return [requests[start : start + a_pass] for start in range(0, a_pass * (_PASSES + 1), a_pass)]


def _tenants(system: System) -> dict[str, httpx.Client]:
    """A client for each tenant, whose rules are in force."""
    clients = {}
    with system.administrator() as administrator:
        archive = pack_bytes(public_rules())
        administrator.post("/api/admin/rule-packs?name=sigmahq", content=archive).raise_for_status()
        for name, packs in _PACKS.items():
            headers = {"Authorization": f"Bearer {new_tenant(administrator, name, 'ingest', 'read')}"}
            place = f"/api/admin/tenants/{name}/rules"
            version = administrator.get(place).raise_for_status().json()["version"]
            chosen = {"version": version, "packs": [{"name": pack} for pack in packs]}
            administrator.put(place, json=chosen).raise_for_status()
            clients[name] = httpx.Client(base_url=system.base_url, headers=headers, timeout=300)
    for client in clients.values():
        await_judged(client, _LIMIT_S)
    return clients


def _pass(system: System, client: httpx.Client, bodies: list[bytes]) -> tuple[float, float]:
    """Records a second and core, and seconds of processor time a record."""
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
    before, spent, began = _judged_records(client), system.cpu_seconds(), time.monotonic()
    for body in bodies:
        client.post("/v1/logs", content=body, headers=headers).raise_for_status()
    await_judged(client, _LIMIT_S)
    seconds, spent = time.monotonic() - began, system.cpu_seconds() - spent
    records = _judged_records(client) - before
    return records / seconds / (os.cpu_count() or 1), spent / records


def _judged_records(client: httpx.Client) -> int:
    return int(status(client)["counts"]["records"])


def main() -> int:
    """Measures, prints the table and keeps the figures."""
    try:
        with running_system() as system:
            figures = measure(system, int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)
    except DataMissing as missing:
        sys.stderr.write(f"{missing}\n")
        return 2
    return finish(figures)


if __name__ == "__main__":
    sys.exit(main())
