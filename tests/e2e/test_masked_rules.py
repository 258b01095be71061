"""On the running system: a tenant begins to mask, and its rules find in tokens whom they name."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

import httpx

from actors.rule_check_task import is_small
from agent.masking import Masker
from bench.system import System
from detect.record import TenantId
from detect.sigma.pack import pack_bytes
from serve.masking.keys import masking_key
from serve.signing_masters import load_masters
from tests.e2e.conftest import Tenant, admin_headers, lines_request
from tests.e2e.test_rules import backtest

NOW = int(time.time()) * 10**9
SOUGHT = "5a3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0e01"
RULE = """
title: Number {number}
id: {rule_id}
status: stable
level: low
logsource: {{product: linux, service: sshd}}
detection:
  sel: {{user: {user}, src_ip: {address}}}
  condition: sel
"""
LINE = "Mar  1 10:00:00 web-1 sshd[4000]: Failed password for alice from 203.0.113.7 port 40022 ssh2"


def test_rules_of_a_tenant_that_begins_to_mask_find_tokens(system: System, new_tenant: Callable[[], Tenant]) -> None:
    others = (
        RULE.format(number=number, rule_id=UUID(int=number), user=f"nobody{number}", address=f"192.0.2.{number % 255}")
        for number in range(1, 1200)
    )
    sought = RULE.format(number=0, rule_id=SOUGHT, user="alice", address="203.0.113.7")
    pack = pack_bytes([(f"{number}.yml", text) for number, text in enumerate((sought, *others))])
    assert not is_small(pack), "so many rules are rewritten in a process of their own"
    masking, clear = new_tenant(), new_tenant()
    with httpx.Client(base_url=system.base_url, headers=admin_headers(system), timeout=120) as admin:
        assert admin.post("/api/admin/rule-packs", params={"name": "sought"}, content=pack).status_code == 201
        for tenant in (masking, clear):
            address = f"/api/admin/tenants/{tenant.name}"
            wanted = {"version": admin.get(f"{address}/rules").json()["version"], "packs": [{"name": "sought"}]}
            assert admin.put(f"{address}/rules", json=wanted).status_code == 200
        switched = admin.put(f"/api/admin/tenants/{masking.name}/masking", json={"enabled": True})
        assert switched.status_code == 200, switched.text
        ids = {item["name"]: item["tenant_id"] for item in admin.get("/api/admin/tenants").json()["items"]}
    master = switched.json()["key"]
    key = masking_key(load_masters(system.directory / "signing"), master, TenantId(UUID(ids[masking.name])))
    assert key.fingerprint == switched.json()["fingerprint"]
    masked = Masker(key).transform(lines_request([(NOW, LINE)]), "otlp_protobuf")
    assert b"alice" not in masked
    for tenant, hits in ((masking, 1), (clear, 0)):
        assert tenant.send(masked).status_code == 200
        tenant.await_judged()
        assert tenant.get(f"/api/rules/{SOUGHT}")["hits"] == hits
    tried = backtest(masking, sought.replace(SOUGHT, str(UUID(int=5000))))
    assert (tried["new"], tried["lost"]) == (1, 0), "a rule that is tried looks for tokens too"
