"""What an SRE leans on: health, metrics, nothing listening where it should not, and what a kill changes (nothing)."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil

from bench.system import System
from tests.e2e.conftest import Tenant, wait_for

NOW = int(time.time()) * 10**9


def test_health_and_readiness_need_no_key(system: System) -> None:
    assert httpx.get(f"{system.base_url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{system.base_url}/readyz").json() == {"status": "ready"}


def test_metrics_show_edge_and_detectors(system: System, tenant: Tenant) -> None:
    tenant.send_lines([(NOW, "one line")])
    tenant.await_judged()
    text = httpx.get(f"{system.base_url}/metrics").text
    assert "trustsoc_ingest_records_total" in text
    assert 'trustsoc_detector_records{actor="detector-0"}' in text


def test_openapi_describes_the_api(system: System) -> None:
    document = httpx.get(f"{system.base_url}/api/openapi.json").json()
    assert {"/api/events", "/api/incidents/{incident_id}", "/advisor/analyze"} <= set(document["paths"])
    assert document["components"]["schemas"]["EventModel"]["examples"]


def burst(number: int) -> list[tuple[int, str]]:
    """Ten failed passwords by one of five addresses, a minute after the burst before."""
    lines = []
    for second in range(10):
        line = (
            f"Mar  1 10:{number % 60:02d}:{second:02d} web-1 sshd[{4000 + second}]: "
            f"Failed password for root from 203.0.113.{number % 5 + 1} port {40000 + second} ssh2"
        )
        lines.append((NOW - 7200 * 10**9 + (number * 60 + second) * 10**9, line))
    return lines


def verdict(tenant: Tenant) -> list[Any]:
    """The tenant's events without what differs between tenants by design."""
    events = tenant.get("/api/events", limit=500)["items"]
    kept = ("record", "time", "end_time", "kind", "rule_id", "title", "severity", "score", "matched", "evidence")
    return sorted((str([event[name] for name in kept]) for event in events), key=str)


def kill_shard(system: System) -> None:
    """Kills the detector actor's process, waiting for it to be there again after a kill before."""

    def shard() -> psutil.Process | None:
        names = {process: process.name() for process in system.processes() if process.is_running()}
        return next((process for process, name in names.items() if name.startswith("ray::Detector")), None)

    wait_for(shard, "a detector process").send_signal(signal.SIGKILL)


def test_a_detector_killed_in_mid_load_changes_nothing(system: System, new_tenant: Callable[[], Tenant]) -> None:
    calm, restless = new_tenant(), new_tenant()
    for number in range(40):
        assert calm.send_lines(burst(number)).status_code == 200
    calm.await_judged()
    for number in range(40):
        assert restless.send_lines(burst(number)).status_code == 200
        if number in {10, 25}:
            kill_shard(system)
    counts = restless.await_judged()
    assert counts["records"] == 400
    assert verdict(restless) == verdict(calm)
    assert verdict(calm)


def test_postgres_killed_is_503_with_retry_after_and_comes_back(system: System, tenant: Tenant) -> None:
    assert tenant.send_lines(burst(0)).status_code == 200
    postmaster = next(
        process for process in system.process.children() if process.name().startswith("postgres") and process.children()
    )
    postmaster.send_signal(signal.SIGKILL)
    statuses: set[int] = set()
    number = 1

    def accepted_again() -> bool:
        answer = tenant.send_lines(burst(number))
        statuses.add(answer.status_code)
        if answer.status_code != 200:
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) >= 1
        return answer.status_code == 200

    wait_for(accepted_again, "ingest takes batches again")
    assert statuses <= {200, 503}

    def judged() -> bool:
        answer = tenant.client.get("/api/status")
        if answer.status_code != 200 or not answer.json()["counts"]:
            return False
        counts = answer.json()["counts"]
        return bool(counts["judged"] == counts["batches"] and counts["records"] == 20)

    wait_for(judged, "both batches judged, each once")
