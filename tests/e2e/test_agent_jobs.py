"""Jobs of the real server, carried out by a real controller: told once, run once, never when anybody forged anything.

One enrolled host for all tests, behind an edge that the tests own (hostile_edge) or directly. RULES_RELOAD leaves a
mark on this host, so that every run of it is counted.
"""

from __future__ import annotations

import shutil
import signal
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from cryptography import x509

from agent.controller.identity import IdentityFolder
from agent.jobs import verify_result
from bench.system import System
from cluster.certificates import CertificateAuthority
from tests.e2e.agent_relay import Relay
from tests.e2e.conftest import admin_headers, tenants_of, wait_for
from tests.e2e.enrolled_host import EnrolledHost, append, lead_control_to, numbered
from tests.e2e.hostile_edge import HostileEdge, Item

AN_HOUR_OFF = Path(__file__).with_name("agent_an_hour_off.py")
HEALTH = {"version": "1", "started_at": 0, "status": "ok"}


@dataclass(frozen=True, slots=True)
class Fleet:
    """Two hosts of one tenant, of which the second runs nothing; `approver` is another key of the tenant."""

    host: EnrolledHost
    other: EnrolledHost
    edge: HostileEdge
    relay: Relay
    approver: httpx.Client
    overdue: str

    def direct(self) -> EnrolledHost:
        """The host, whose controller asks the server itself from now on."""
        if self.edge.url in (self.host.places.state / "identity.json").read_text():
            self.host.stop_controller()
            lead_control_to(self.host, self.relay.url)
            self.host.start_controller()
        return self.host

    def approved(self, kind: str, **more: Any) -> dict[str, Any]:
        """A job that another key approves, once it has ended."""
        job = self.host.job(kind, **more)
        assert self.host.job_state(job)["state"] == "awaiting_approval"
        self.approver.post(f"/api/jobs/{job}/approve").raise_for_status()
        return self.host.await_job(job)


@pytest.fixture(scope="module")
def fleet(system: System, relay: Relay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    edge = HostileEdge(system)
    with tenants_of(system, "ingest", "read", "operate") as make:
        tenant = make()
        host = EnrolledHost(system, tenant, relay.url, tmp_path_factory.mktemp("jobs-host"), "web-1")
        other = EnrolledHost(system, tenant, relay.url, tmp_path_factory.mktemp("other-host"), "web-2")
        keys = f"{system.base_url}/api/admin/tenants/{tenant.name}/keys"
        scopes = {"label": "approver", "scopes": ["operate"]}
        key = httpx.post(keys, json=scopes, headers=admin_headers(system), timeout=60).json()["key"]
        approver = httpx.Client(base_url=system.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=60)
        try:
            host.places.collector.write_text(host.config("first.log"))
            lead_control_to(host, edge.url)
            host.start_forwarder()
            edge.withhold = True
            host.start_controller()
            overdue = host.job("RULES_RELOAD", lifetime_s=20)
            wait_for(lambda: edge.kept, "the job that the edge keeps back", 60)
            edge.withhold = False
            yield Fleet(host, other, edge, relay, approver, overdue)
        finally:
            host.close()
            edge.close()
            approver.close()


def restarted(fleet: Fleet, *prefix: str, number: signal.Signals = signal.SIGTERM) -> None:
    fleet.host.stop_controller(number)
    fleet.host.start_controller(*prefix)


def of(job: str) -> Callable[[Item], bool]:
    return lambda item: f'"id":"{job}"' in item["job"]


def test_a_job_is_done_once_and_its_signed_result_can_be_verified_by_anybody(fleet: Fleet) -> None:
    host, before = fleet.host, fleet.host.effects()
    job = host.await_job(host.job("RULES_RELOAD"))
    assert (job["state"], job["attempt"], host.effects()) == ("succeeded", 1, before + 1)
    key = IdentityFolder(host.places.state).result_key().public_key()
    result = verify_result(job["result"].encode(), job["result_signature"], key, "web-1")
    assert (str(result.job), result.state) == (job["job_id"], "succeeded")


def test_a_job_that_is_replayed_is_answered_and_not_run_again(fleet: Fleet) -> None:
    host, edge = fleet.host, fleet.edge
    job = host.await_job(host.job("RULES_RELOAD"))["job_id"]
    [item] = filter(of(job), edge.seen)
    before, [first] = host.effects(), edge.finals(job)
    edge.inject = [item, item | {"attempt": 2, "lease": "99999999-2222-4333-8444-555555555555"}]
    assert host.ping()["state"] == "succeeded"
    again = edge.result_of(job, 2)
    assert (again["state"], again["attempt"], again["ended_at"]) == ("succeeded", 2, first["ended_at"])
    assert host.effects() == before


@pytest.mark.parametrize("change", [('"type":"PING"', '"type":"RULES_RELOAD"'), ('"dry_run":true', '"dry_run":false')])
def test_an_altered_job_is_rejected_and_nothing_is_run(fleet: Fleet, change: tuple[str, str]) -> None:
    host, edge, before = fleet.host, fleet.edge, fleet.host.effects()

    def altered(item: Item) -> Item:
        assert change[0] in item["job"]
        return item | {"job": item["job"].replace(*change)}

    edge.alter = altered
    kind = "PING" if "PING" in change[0] else "RULES_RELOAD"
    try:
        job = host.await_job(host.job(kind, dry_run=kind != "PING"))
    finally:
        edge.alter = lambda item: item
    assert (job["state"], job["reason"], host.effects()) == ("rejected", "bad_signature", before)


def test_a_job_of_another_agent_is_rejected_and_stays_that_agents(fleet: Fleet) -> None:
    host, edge, before = fleet.host, fleet.edge, fleet.host.effects()
    job = fleet.other.job("RULES_RELOAD")
    with fleet.other.client() as client:
        [item] = client.post("/agent/jobs/pull", {"wait_s": 0, "most": 1, "health": HEALTH})["items"]
    edge.inject = [item]
    assert host.ping()["state"] == "succeeded"
    assert edge.result_of(job)["reason"] == "foreign_agent"
    assert [status for said, status in edge.results if said["job"] == job] == [404]
    assert fleet.other.job_state(job)["state"] == "leased"
    assert host.effects() == before


def test_pulls_at_once_get_each_job_once(fleet: Fleet) -> None:
    other = fleet.other
    jobs = {other.job("PING", args={"echo": str(number)}) for number in range(24)}
    # The server lets an agent wait in four places.
    got: list[list[str]] = [[] for _ in range(4)]

    def pull(mine: list[str]) -> None:
        with other.client() as client:
            while items := client.post("/agent/jobs/pull", {"wait_s": 0, "most": 2, "health": HEALTH})["items"]:
                mine += [item["job"] for item in items]

    threads = [threading.Thread(target=pull, args=(mine,)) for mine in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    times = Counter(job for mine in got for text in mine for job in jobs if f'"id":"{job}"' in text)
    assert times == dict.fromkeys(jobs, 1)
    assert sum(bool(mine) for mine in got) > 1, "several were served at once"


def test_a_controller_killed_in_mid_job_answers_interrupted_and_never_runs_it_again(fleet: Fleet) -> None:
    host, script = fleet.direct(), fleet.host.folder / "reload.sh"
    usual, before = script.read_text(), host.effects()
    # It waits for a file that never comes, and ends by itself when the test has gone.
    script.write_text(
        f"{usual}n=0\nwhile [ $n -lt 600 ] && [ ! -e {host.folder}/go ]; do sleep 0.1; n=$((n+1)); done\n"
    )
    job = host.job("RULES_RELOAD")
    wait_for(lambda: host.effects() == before + 1, "the job under way", 60)
    restarted(fleet, number=signal.SIGKILL)
    (host.folder / "go").touch()
    script.write_text(usual)
    found = host.await_job(job)
    assert (found["state"], found["reason"], found["attempt"]) == ("failed", "interrupted", 1)
    assert host.ping()["state"] == "succeeded"
    assert host.effects() == before + 1


@pytest.mark.parametrize(("hours", "reason"), [("+1", "expired"), ("-1", "not_yet")])
def test_a_host_whose_clock_is_an_hour_off_is_heard_and_runs_nothing(fleet: Fleet, hours: str, reason: str) -> None:
    host, before = fleet.direct(), fleet.host.effects()
    restarted(fleet, str(AN_HOUR_OFF), hours, "agent.controller")
    job = host.await_job(host.job("RULES_RELOAD", lifetime_s=600))
    assert (job["state"], job["reason"], host.effects()) == ("rejected", reason, before)

    def said() -> bool:
        return "clock" in host.tenant.get("/api/agents/web-1")["health"].get("detail", "")

    wait_for(said, "words about the clock", 30)
    restarted(fleet)
    assert host.ping()["state"] == "succeeded"


def test_a_rotated_certificate_is_used_by_forwarder_and_controller_and_the_old_one_may_go(
    fleet: Fleet, system: System, tmp_path: Path
) -> None:
    # Straight to the server: whose certificate it is, only the server's own TLS can tell.
    host = fleet.direct()
    pair = host.places.state / "tls" / "current"
    for name in ("certificate.pem", "key.pem"):
        shutil.copy(pair / name, tmp_path)
    job = host.await_job(host.job("CERT_ROTATE"))
    assert (job["state"], job["reason"]) == ("succeeded", ""), job
    new, old = (
        x509.load_pem_x509_certificate((folder / "certificate.pem").read_bytes()) for folder in (pair, tmp_path)
    )
    assert new.serial_number != old.serial_number
    known = {int(item["serial"], 16) for item in host.tenant.get("/api/agents/web-1")["certificates"]}
    assert {new.serial_number, old.serial_number} <= known
    CertificateAuthority(system.directory / "tls").revoke(tmp_path / "certificate.pem", datetime.now(UTC))
    context = ssl.create_default_context(cafile=str(system.directory / "tls" / "authority.pem"))
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")

    def old_is_refused() -> bool:
        try:
            httpx.get(f"{fleet.relay.url}/healthz", verify=context, timeout=30)
        except httpx.TransportError:
            return True
        return False

    wait_for(old_is_refused, "the old certificate refused", 30)
    fleet.relay.cut()
    lines = numbered("rotated", 10)
    append(host.logs / "first.log", *lines)
    found = host.await_lines(lines)
    assert {line: found[line] for line in lines} == dict.fromkeys(lines, 1)
    assert host.ping()["state"] == "succeeded"


def policy(host: EnrolledHost, name: str, text: str) -> dict[str, Any]:
    made = host.tenant.client.post(f"/api/agent-policies/{name}", json={"content": text})
    assert made.status_code == 201, made.text
    found: dict[str, Any] = made.json()
    return found


def test_a_good_configuration_is_taken_and_a_bad_one_rolled_back_to_it(fleet: Fleet) -> None:
    host = fleet.direct()
    good = policy(host, "web", host.config("second.log"))
    broken = yaml.safe_load(host.config("third.log"))
    # Valid, but the collector ends when it starts: the file is not there.
    broken["exporters"]["otlphttp"]["tls"] = {"ca_file": str(host.logs / "missing.pem")}
    bad = policy(host, "web", yaml.safe_dump(broken))
    lines = numbered("configured", 20)
    append(host.logs / "second.log", *lines[:10])
    taken = fleet.approved("UPDATE_CONFIG", args={"policy": "web", "version": good["version"]})
    assert (taken["state"], taken["reason"]) == ("succeeded", ""), taken
    host.await_lines(lines[:10])
    refused = fleet.approved("UPDATE_CONFIG", args={"policy": "web", "version": bad["version"]})
    assert (refused["state"], refused["reason"]) == ("failed", "unhealthy"), refused
    assert "missing.pem" in refused["detail"]
    append(host.logs / "second.log", *lines[10:])
    host.await_lines(lines)

    def reported() -> dict[str, Any] | None:
        said: dict[str, Any] = host.tenant.get("/api/agents/web-1")["health"]["config"]
        return said if said["state"] == "failed" else None

    said = wait_for(reported, "both digests in the agent's health", 30)
    assert (said["running"], said["attempted"]) == (good["digest"], bad["digest"])
    shown = host.command("status", "--json")
    assert good["digest"] in shown.stdout, shown.stderr


def test_a_job_that_was_kept_back_until_it_was_over_is_not_run(fleet: Fleet) -> None:
    """The edge has it since the first moment of these tests; by now its seconds are over."""
    host, edge = fleet.host, fleet.edge
    host.stop_controller()
    lead_control_to(host, edge.url)
    before = host.effects()
    ends = datetime.fromisoformat(host.job_state(fleet.overdue)["expires_at"])
    wait_for(lambda: datetime.now(UTC) > ends, "the end of the job", 60)
    edge.inject = list(edge.kept)
    host.start_controller()
    assert edge.result_of(fleet.overdue)["reason"] == "expired"
    assert host.ping()["state"] == "succeeded"
    assert host.effects() == before
    ended = host.await_job(fleet.overdue, lambda job: job["state"] not in {"queued", "leased"})
    assert ended["state"] in {"expired", "failed", "rejected"}, "whatever it is called, it never succeeded"


def test_every_run_on_the_host_is_one_that_the_server_knows(fleet: Fleet) -> None:
    """After all of the above: as many marks as jobs that ended well or were cut short while they ran."""
    page = fleet.host.tenant.get("/api/jobs", agent="web-1", type="RULES_RELOAD", limit=500)
    ran = [job for job in page["items"] if job["state"] == "succeeded" or job["reason"] == "interrupted"]
    assert fleet.host.effects() == len(ran)
