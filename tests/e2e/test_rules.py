"""The life of a rule on a running system: installed, tried on the past, chosen, tuned, counted, removed."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx

from bench.system import System
from detect.sigma.pack import pack_bytes
from tests.e2e.conftest import Tenant, admin_headers

NOW = int(time.time()) * 10**9
RULE_ID = "0d6d6f0e-6f7c-4b8e-9d1e-3f0a5d1f7a01"
RULE = f"""
title: Somebody says marmalade
id: {RULE_ID}
status: test
level: low
tags: [attack.t1059]
logsource: {{product: linux}}
detection:
  words: [marmalade]
  condition: words
"""


def lines(first: int) -> list[tuple[int, str]]:
    line = "Mar  1 10:00:00 web-1 sshd[4000]: marmalade from 203.0.113.7 port 40022"
    return [(NOW + number, f"{line} {number}") for number in range(first, first + 5)]


def backtest(tenant: Tenant, text: str) -> dict[str, Any]:
    body = {"rules": [{"name": "mine.yml", "text": text}], "since": "2020-01-01T00:00:00Z"}
    answer = tenant.client.post("/api/rules/backtest", json=body)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = json.loads(answer.text.splitlines()[-1])
    assert result["type"] == "result"
    return result


def test_a_rule_is_tried_installed_chosen_tuned_and_removed(system: System, tenant: Tenant) -> None:
    mine = f"/api/admin/tenants/{tenant.name}/rules"
    assert tenant.send_lines(lines(0)).status_code == 200
    tenant.await_judged()
    tried = backtest(tenant, RULE)
    assert (tried["new"], tried["lost"]) == (5, 0)
    assert "marmalade" in tried["rules"][0]["samples"]["new"][0]["evidence"][0]["message"]
    refused = tenant.client.post(
        "/api/rules/backtest",
        json={"rules": [{"name": "bad.yml", "text": RULE.replace("condition: words", "condition: word")}],
              "since": "2020-01-01T00:00:00Z"},
    )  # fmt: skip
    assert refused.status_code == 422
    assert "bad.yml:" in refused.json()["detail"]

    with httpx.Client(base_url=system.base_url, headers=admin_headers(system), timeout=120) as admin:
        pack = pack_bytes([("rules/mine.yml", RULE), ("rules/broken.yml", "title: [")])
        installed = admin.post("/api/admin/rule-packs", params={"name": "mine"}, content=pack)
        assert installed.status_code == 201, installed.text
        assert (installed.json()["rules"], installed.json()["broken"]) == (1, 1)
        assert installed.json()["problems"][0]["path"] == "rules/broken.yml"
        pinned = admin.post("/api/admin/rule-packs", params={"name": "mine", "sha256": "0" * 64}, content=pack)
        assert pinned.status_code == 422
        before = admin.get(mine).json()
        assert ([pack["name"] for pack in before["packs"]], before["in_force"]) == (["starter"], True)
        wanted = {"version": before["version"], "packs": [{"name": "starter"}, {"name": "mine"}], "overlay": {}}
        chosen = admin.put(mine, json=wanted)
        assert chosen.status_code == 200, chosen.text
        assert admin.put(mine, json=wanted).status_code == 409, "somebody has changed it since"
        assert admin.delete("/api/admin/rule-packs/mine").status_code == 409
        bad = wanted | {"version": chosen.json()["version"], "overlay": {"rules": {RULE_ID: {"level": "loud"}}}}
        assert admin.put(mine, json=bad).status_code == 422

        assert tenant.send_lines(lines(5)).status_code == 200
        tenant.await_judged()
        [rule] = tenant.get("/api/rules", text=RULE_ID)["items"]
        assert (rule["hits"], rule["state"], rule["pack"], rule["techniques"]) == (5, "on", "mine", ["T1059"])
        off = wanted | {
            "version": chosen.json()["version"],
            "overlay": {"rules": {RULE_ID: {"enabled": False, "owner": "me", "reason": "noise"}}},
        }
        assert admin.put(mine, json=off).json()["counts"]["off"] == 1
        assert tenant.send_lines(lines(10)).status_code == 200
        tenant.await_judged()
        detail = tenant.get(f"/api/rules/{RULE_ID}")
        assert (detail["hits"], detail["state"], detail["overlay"]["reason"]) == (5, "off", "noise")
        assert "marmalade" in detail["source"]
        assert f'trustsoc_rule_hits{{rule="{RULE_ID}"}} 5.0' in admin.get("/metrics").text
        back = wanted | {"version": chosen.json()["version"] + 1, "packs": [{"name": "starter"}]}
        assert admin.put(mine, json=back).status_code == 200
        assert admin.delete("/api/admin/rule-packs/mine").status_code == 204
    assert tenant.client.get("/api/admin/rule-packs").status_code == 403
