"""Ingest, detection and lag of the whole system on this machine, client included."""

from __future__ import annotations

import asyncio
import os
import time

import httpx

from bench.bare import bare_server
from bench.figures import Figure
from bench.load import LoadResult, export_request, percentile, send_load
from bench.system import System

COMMAND = "python -m bench ingest"
_CONNECTIONS = 8
_SECONDS = 2.0
_END_TO_END_REQUESTS = 60
_BODIES = 32
_RESTART_LIMIT_S = 120.0


# Records a second to keep, by records a request.
_FLOORS = {100: 30_000.0, 1000: 150_000.0}
_CPU_FLOOR_MS = 3.5


def measure(system: System) -> list[Figure]:
    """Records a second at 100 and 1000 a request, what a request costs and where, end-to-end rate, lag, restart."""
    figures = []
    system.await_advisor()  # it reads its corpus after the start, and would be measured as well
    for records in (100, 1000):
        figures += _rate(system, records)
        system.await_judged()
    end_to_end, rate = _end_to_end(system)
    return [*figures, *end_to_end, *_lag(system, rate), _shard_restart(system)]


def _rate(system: System, records: int) -> list[Figure]:
    bodies = [export_request(records, seed, time.time_ns()) for seed in range(_BODIES)]
    before = system.cpu_by_part()
    load = _burst(f"{system.base_url}/v1/logs", system.key, bodies, f"ingest-{records}")
    spent = {part: seconds - before[part] for part, seconds in system.cpu_by_part().items()}
    rate = load.requests * records / load.seconds
    with bare_server() as url:
        bare = _burst(f"{url}/v1/logs", system.key, bodies, "bare")
    share = rate / (bare.requests * records / bare.seconds)
    p99 = percentile(load.latencies, 0.99) * 1000

    def each(seconds: float) -> float:
        return seconds / load.requests * 1000

    door, floor = spent["edge"] + spent["proxy"], _CPU_FLOOR_MS if records == 100 else None
    name = f"{records}-record request"
    return [
        Figure(f"ingest, {records} records a request", rate, "records/s", _FLOORS[records], "higher", COMMAND),
        Figure(f"ingest p99, {records}", p99, "ms", None, "lower", COMMAND),
        Figure(f"ingest ÷ parse only, {records}", share, "ratio", None, "higher", COMMAND),
        Figure(f"server CPU per {name}: edge and proxy", each(door), "ms", floor, "lower", COMMAND),
        Figure(f"server CPU per {name}: PostgreSQL", each(spent["postgres"]), "ms", None, "lower", COMMAND),
        Figure(f"server CPU per {name}: judging meanwhile", each(spent["detector"]), "ms", None, "lower", COMMAND),
        Figure(f"client CPU per {name}", each(load.client_cpu), "ms", None, "lower", COMMAND),
    ]


def _burst(url: str, key: str, bodies: list[bytes], run: str) -> LoadResult:
    load = asyncio.run(send_load(url, key, bodies, connections=_CONNECTIONS, seconds=_SECONDS, rate=None, run=run))
    if load.refused:
        raise RuntimeError(f"{load.refused} requests of {run} were refused")
    return load


def _end_to_end(system: System) -> tuple[list[Figure], float]:
    bodies = [export_request(1000, 100 + seed, time.time_ns()) for seed in range(_BODIES)]
    cpu, began = system.cpu_seconds(), time.monotonic()
    url = f"{system.base_url}/v1/logs"
    load = asyncio.run(
        send_load(url, system.key, bodies, connections=4, seconds=60, rate=None, run="whole", most=_END_TO_END_REQUESTS)
    )
    system.await_judged()
    seconds, cpu = time.monotonic() - began, system.cpu_seconds() - cpu
    records = load.requests * 1000
    cores = os.cpu_count() or 1
    rate = records / seconds
    figures = [
        Figure("line in to judged and stored, per core", rate / cores, "records/s/core", None, "higher", COMMAND),
        Figure("server CPU per 1000 records, end to end", cpu / records * 1e6, "ms", None, "lower", COMMAND),
    ]
    return figures, rate


def _lag(system: System, sustained: float) -> list[Figure]:
    """Acknowledgement to searchable and judged, at 70 % of the sustained rate."""
    bodies = [export_request(1000, 200 + seed, time.time_ns()) for seed in range(_BODIES)]
    requests_a_second = max(0.5, 0.7 * sustained / 1000)
    lags: list[float] = []

    async def both() -> None:
        url = f"{system.base_url}/v1/logs"
        load = send_load(url, system.key, bodies, connections=4, seconds=15, rate=requests_a_second, run="lag")
        await asyncio.gather(load, _probe(system, lags))

    asyncio.run(both())
    system.await_judged()
    return [
        Figure("detection lag p50 at 70 % load", percentile(lags, 0.5) * 1000, "ms", None, "lower", COMMAND),
        Figure("detection lag p99 at 70 % load", percentile(lags, 0.99) * 1000, "ms", 2000, "lower", COMMAND),
    ]


async def _probe(system: System, lags: list[float]) -> None:
    headers = {"Authorization": f"Bearer {system.key}"}
    async with httpx.AsyncClient(base_url=system.base_url, headers=headers, timeout=30) as client:
        until = time.monotonic() + 14
        number = 0
        while time.monotonic() < until:
            number += 1
            answer = await client.post(
                "/v1/logs",
                content=export_request(1, 1000 + number, time.time_ns()),
                headers={"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"},
            )
            acknowledged = time.monotonic()
            record = f"/api/logs/{answer.headers['X-Batch-Seq']}-0"
            while (await client.get(record)).status_code == 404:
                await asyncio.sleep(0.01)
            lags.append(time.monotonic() - acknowledged)
            await asyncio.sleep(0.1)


def _shard_restart(system: System) -> Figure:
    """From the kill of the detector's process until a record sent after it is judged."""
    victim = system.detector()
    if victim is None:
        raise RuntimeError("there is no detector process to kill")
    victim.kill()
    began = time.monotonic()
    with system.client() as client:
        content = export_request(1, 5000, time.time_ns())
        headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
        answer = client.post("/v1/logs", content=content, headers=headers).raise_for_status()
        record = f"/api/logs/{answer.headers['X-Batch-Seq']}-0"
        while client.get(record).status_code == 404:
            if time.monotonic() - began > _RESTART_LIMIT_S:
                raise TimeoutError(f"nothing is judged {_RESTART_LIMIT_S:.0f} s after the detector was killed")
            time.sleep(0.05)
    return Figure("shard restart, kill to judged again", time.monotonic() - began, "s", 10, "lower", COMMAND)
