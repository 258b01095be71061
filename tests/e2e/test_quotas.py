"""A noisy tenant meets its quota and loses nothing; a quiet one beside it does not notice."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from bench.system import System
from tests.e2e.conftest import Tenant, admin_headers

NOW = int(time.time()) * 10**9
QUOTA = {"records_per_s": 200, "burst_s": 1}


def batch(number: int, records: int) -> list[tuple[int, str]]:
    return [(NOW, f"request {number} line {line} of an ordinary day") for line in range(records)]


def send_until_taken(tenant: Tenant, number: int, records: int) -> list[tuple[int, int]]:
    """Sends one batch as a good collector does; every refusal as (status, Retry-After)."""
    refusals = []
    while (answer := tenant.send_lines(batch(number, records))).status_code != 200:
        wait = int(answer.headers["Retry-After"])
        refusals.append((answer.status_code, wait))
        time.sleep(wait)
    return refusals


def test_a_noisy_tenant_waits_for_its_quota_and_a_quiet_one_does_not_notice(
    system: System, new_tenant: Callable[[], Tenant]
) -> None:
    noisy, quiet = new_tenant(), new_tenant()
    with httpx.Client(base_url=system.base_url, headers=admin_headers(system), timeout=60) as admin:
        answer = admin.put(f"/api/admin/tenants/{noisy.name}/quota", json=QUOTA)
        assert answer.json()["in_force"]["records_per_s"] == 200
        assert admin.get(f"/api/admin/tenants/{quiet.name}/quota").json()["own"]["records_per_s"] is None
    with ThreadPoolExecutor(5) as pool:
        sent = [pool.submit(send_until_taken, noisy, number, 100) for number in range(9)]
        for number in range(30):
            assert quiet.send_lines(batch(number, 5)).status_code == 200
        refusals = [refusal for one in sent for refusal in one.result()]
    assert refusals, "900 records at 200 a second with 4 in flight were all taken at once"
    assert {status for status, _ in refusals} == {429}
    assert all(1 <= wait <= 5 for _, wait in refusals)
    assert int(noisy.await_judged()["records"]) == 900
    assert int(quiet.await_judged()["records"]) == 150
    mine = noisy.get("/api/quota")
    assert mine["in_force"]["burst_s"] == 1
    assert (mine["use"]["records"], mine["use"]["refused_requests"]) == (900, len(refusals))
    assert quiet.get("/api/quota")["use"]["refused_requests"] == 0


def test_a_refusal_is_an_otlp_answer_that_says_what_to_do(system: System, tenant: Tenant) -> None:
    with httpx.Client(base_url=system.base_url, headers=admin_headers(system), timeout=60) as admin:
        admin.put(f"/api/admin/tenants/{tenant.name}/quota", json={"records_per_s": 1, "burst_s": 1})
        assert tenant.send_lines(batch(1, 50)).status_code == 200, "a batch larger than the burst passes once"
        refused = tenant.send_lines(batch(2, 1))
        assert (refused.status_code, refused.headers["content-type"]) == (429, "application/x-protobuf")
        assert 30 <= int(refused.headers["Retry-After"]) <= 50
        assert b"more than its quota allows" in refused.content
        wrong = admin.put(f"/api/admin/tenants/{tenant.name}/quota", json={"weight": 0})
        assert (wrong.status_code, wrong.headers["content-type"]) == (422, "application/problem+json")
        admin.put(f"/api/admin/tenants/{tenant.name}/quota", json={})
        assert admin.get("/api/admin/tenants/nobody/quota").status_code == 404
        assert admin.get("/api/quota").status_code == 403
    assert tenant.client.put(f"/api/admin/tenants/{tenant.name}/quota", json={}).status_code == 403
    assert tenant.send_lines(batch(2, 1)).status_code == 200, "without a quota of its own it may send at once"
