"""The secure forwarder against the whole system: killed, denied, refused by TLS, it loses and doubles nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import yaml

from bench.system import System
from cluster.certificates import CertificateAuthority
from detect.record import TenantId
from serve.ingest.receipts import verify_receipt
from serve.peer import PeerIdentity
from tests.e2e.conftest import PROTOBUF, Tenant, admin_headers, lines_request, wait_for

TOKEN = "the-local-token-of-this-host"
NOW_NS = 1_772_366_400_000_000_000
DAY = {"from": "2026-03-01T00:00:00Z", "to": "2026-03-02T00:00:00Z", "limit": 500}


class Forwarded:
    """A host of a tenant with a forwarder on it, which a test may kill, starve of credentials and start again."""

    def __init__(self, system: System, tenant: Tenant, folder: Path, name: str = "web-1") -> None:
        self.system, self.tenant, self.folder, self.name = system, tenant, folder, name
        self.admin = httpx.Client(base_url=system.base_url, headers=admin_headers(system), timeout=60)
        self.keys = f"/api/admin/tenants/{tenant.name}/signing-keys"
        items = self.admin.get("/api/admin/tenants").json()["items"]
        tenant_id = next(item["tenant_id"] for item in items if item["name"] == tenant.name)
        self.identity = PeerIdentity(TenantId(UUID(tenant_id)), name)
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        (folder / "token").write_text(TOKEN)
        self.new_signing_key()
        self.new_certificate()

    def new_signing_key(self) -> str:
        made = self.admin.post(self.keys, json={"agent": self.name})
        assert made.status_code == 201, made.text
        key = {name: made.json()[name] for name in ("key_id", "secret")}
        (self.folder / "signing_key.json").write_text(json.dumps(key))
        return str(key["key_id"])

    def new_certificate(self, days: int = 30) -> None:
        authority = CertificateAuthority(self.system.directory / "tls")
        self.certificate = authority.issue_agent(self.tenant.name, self.identity, datetime.now(UTC), days)

    def start(self) -> None:
        stated: dict[str, Any] = {
            "server": {
                "url": self.system.tls_url,
                "authority": str(self.system.directory / "tls" / "authority.pem"),
                "certificate": str(self.certificate),
                "key": str(self.certificate.with_suffix(".key")),
                "client_id": self.tenant.name,
                "signing_key": str(self.folder / "signing_key.json"),
            },
            "listen": {"token": str(self.folder / "token"), "port": 0},
            "spool": {"folder": str(self.folder / "spool"), "segment_bytes": 30_000},
            "ship": {"statement_s": 0.5, "refused_retry_s": 0.5, "longest_retry_s": 1.0},
        }
        (self.folder / "forwarder.yml").write_text(yaml.safe_dump(stated))
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "agent.forwarder", "--config", str(self.folder / "forwarder.yml")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*command, "--ready-file", str(ready)], stderr=log)
        wait_for(lambda: ready.exists() and ready.read_text(), "the forwarder", 60)
        self.url = f"http://127.0.0.1:{ready.read_text()}"

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(60) == 0, (self.folder / "log").read_text()[-3000:]
        self.admin.close()

    def send(self, *lines: str) -> None:
        """Until it is acknowledged, as a collector does."""
        body = lines_request([(NOW_NS, line) for line in lines])
        headers = PROTOBUF | {"Authorization": f"Bearer {TOKEN}"}
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.post(f"{self.url}/v1/logs", content=body, headers=headers, timeout=10).status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError("nothing was acknowledged within a minute")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/status", timeout=10).json()
        return found

    def await_empty(self) -> dict[str, Any]:
        return wait_for(lambda: (found := self.status())["books"]["in_flight"] == 0 and found, "the spool sent", 60)

    def messages(self) -> list[str]:
        """What the tenant finds by searching, of the first page."""
        self.tenant.await_judged()
        return [item["message"] for item in self.tenant.get("/api/logs", **DAY)["items"]]


@pytest.fixture
def forwarded(system: System, tenant: Tenant, tmp_path: Path) -> Iterator[Forwarded]:
    made = Forwarded(system, tenant, tmp_path)
    made.start()
    yield made
    made.stop()


def test_a_line_goes_all_the_way_with_a_receipt_that_anybody_can_verify(forwarded: Forwarded) -> None:
    forwarded.send("Accepted publickey for alice from 192.0.2.7 port 4022 ssh2", "second line")
    status = forwarded.await_empty()
    assert forwarded.messages().count("second line") == 1
    assert (status["state"], status["books"]["stored"]) == ("ok", 2)
    published = httpx.get(f"{forwarded.system.base_url}/.well-known/jwks.json", timeout=30).json()
    receipt = verify_receipt(status["newest_receipt"]["receipt"], published)
    assert (receipt.records, receipt.tenant) == (2, str(forwarded.identity.tenant))
    assert status["counters"]["receipts_disagreeing_total"] == 0
    assert forwarded.tenant.get(f"/api/batches/{receipt.seq}")["agent"] == "web-1"


def test_kills_at_any_moment_lose_and_double_nothing_and_both_books_agree(forwarded: Forwarded) -> None:
    sent = []
    for number in range(40):
        forwarded.send(f"line {number}", f"also {number}")
        sent += [f"line {number}", f"also {number}"]
        if number % 7 == 3:
            forwarded.kill()
            forwarded.start()
    forwarded.await_empty()
    assert sorted(forwarded.messages()) == sorted(sent)
    forwarded.stop()
    [row] = forwarded.tenant.get("/api/ledger")["items"]
    statement = row["statement"]
    assert (statement["missing"], statement["excess"], statement["in_flight"]) == (0, 0, 0)
    assert statement["accepted"] == row["server"]["stored_records"] == 80
    assert statement["stored"] + statement["duplicate"] == 80


def test_a_revoked_signing_key_keeps_everything_until_there_is_a_new_one(forwarded: Forwarded) -> None:
    key = json.loads((forwarded.folder / "signing_key.json").read_text())["key_id"]
    assert forwarded.admin.delete(f"{forwarded.keys}/{key}").status_code == 204
    wait_for(lambda: forwarded.send("probe") or forwarded.status()["state"] == "failing", "the refusal noticed", 60)
    forwarded.send("while nobody knew us")
    assert forwarded.status()["books"]["in_flight"] >= 1
    assert "401" in forwarded.status()["troubles"]["credentials"]["detail"]
    forwarded.new_signing_key()
    status = forwarded.await_empty()
    assert (status["state"], status["books"]["rejected"]) == ("ok", {})
    assert "while nobody knew us" in forwarded.messages()


def test_an_expired_certificate_keeps_everything_until_it_is_renewed(forwarded: Forwarded) -> None:
    forwarded.kill()
    forwarded.new_certificate(days=0)
    forwarded.start()
    forwarded.send("with a certificate of yesterday")
    wait_for(lambda: forwarded.status()["state"] != "ok", "the refusal noticed", 60)
    assert forwarded.status()["books"]["in_flight"] == 1
    forwarded.new_certificate()
    assert forwarded.process is not None
    forwarded.process.send_signal(signal.SIGHUP)
    forwarded.await_empty()
    assert forwarded.messages() == ["with a certificate of yesterday"]


def _ledger(forwarded: Forwarded) -> list[dict[str, Any]]:
    """Of the runs that have stated their books."""
    items = forwarded.tenant.get("/api/ledger")["items"]
    return [item for item in items if item["statement"] is not None]


def test_a_spool_restored_from_a_copy_begins_new_books_and_doubles_nothing(forwarded: Forwarded) -> None:
    forwarded.send("one")
    forwarded.await_empty()
    forwarded.kill()
    copy = forwarded.folder / "copy"
    shutil.copytree(forwarded.folder / "spool", copy)
    forwarded.start()
    forwarded.send("two")
    forwarded.send("three")
    run = forwarded.await_empty()["books"]["run"]
    wait_for(lambda: [row["statement"]["accepted"] for row in _ledger(forwarded)] == [3], "the books stated", 30)
    forwarded.kill()
    shutil.rmtree(forwarded.folder / "spool")
    copy.rename(forwarded.folder / "spool")
    forwarded.start()
    forwarded.send("four")
    status = forwarded.await_empty()
    wait_for(lambda: forwarded.status()["books"]["run"] != run, "new books", 30)
    assert sorted(forwarded.messages()) == ["four", "one", "three", "two"]
    assert (status["poison"], status["books"]["rejected"]) == (0, {})
