"""`python -m bench.agent_latency`: from a line in a file to its detection event, through agent and system.

Every probe is a line that a rule of the starter pack finds by itself, written alone and awaited before the next. Its
way is the one of a host: the collector tails the file, the forwarder keeps it on disk and ships it signed over TLS 1.3
with a client certificate, the system journals and judges it, and the event is there when the API shows it. The second
pair of figures begins at the forwarder: what is between them is the collector's polling and batching.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import httpx
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from agent.collector import Collector, CollectorProfile, render_profile
from bench.figures import Figure, finish
from bench.forwarder import LOCAL_TOKEN, forwarder_config, running_forwarder
from bench.load import percentile
from bench.system import System, running_system
from cluster.certificates import CertificateAuthority
from detect.record import TenantId
from serve.peer import PeerIdentity

COMMAND = "python -m bench.agent_latency"
_RULE = "78305183-79aa-4bfc-9268-b57af42c4780"  # Local User Created
_AGENT = "bench"
_PROBES = 60
_WARM = 5
_LOOK_S = 0.005
_LIMIT_S = 60.0


def main() -> int:
    """Prints and keeps the figures; exit status 1 when one is on the wrong side of its floor."""
    with tempfile.TemporaryDirectory(prefix="trustsoc-latency-") as folder, running_system() as system:
        system.await_advisor()  # it reads its corpus after the start, and would be measured as well
        return finish(measure(system, Path(folder)))


def measure(system: System, folder: Path) -> list[Figure]:
    """Both ways, one after the other, on a system that has nothing else to do."""
    log = folder / "auth.log"
    log.touch()
    with running_forwarder(forwarder_config(folder, _host(system, folder)), folder) as (_, url):
        profile = CollectorProfile((str(log),), url, "web-1", start_at="beginning")
        with Collector(render_profile(profile), LOCAL_TOKEN, folder / "collector"):
            whole = _probed(system, "tailed", lambda line: _append(log, line))
        at_forwarder = _probed(system, "posted", lambda line: _post(url, line))
    return [*_figures("line in a file → event", whole), *_figures("record at the forwarder → event", at_forwarder)]


def _figures(name: str, seconds: list[float]) -> list[Figure]:
    return [
        Figure(f"{name}, p50", percentile(seconds, 0.5) * 1000, "ms", None, "lower", COMMAND),
        Figure(f"{name}, p99", percentile(seconds, 0.99) * 1000, "ms", 3000, "lower", COMMAND),
    ]


def _probed(system: System, prefix: str, send: Callable[[str], None]) -> list[float]:
    """Seconds from each line to its event, in order; those that warm everything up are left out."""
    found = []
    with system.client() as client:
        for number in range(_WARM + _PROBES):
            user = f"{prefix}{number:04d}"
            moment = datetime.now(UTC)
            line = f"{moment:%b} {moment.day:2d} {moment:%H:%M:%S} web-1 useradd[5190]: new user: name={user}, UID=1002"
            began = time.monotonic()
            send(line)
            _await_event(client, f"name={user},", began)
            found.append(time.monotonic() - began)
    return found[_WARM:]


def _await_event(client: httpx.Client, text: str, began: float) -> None:
    while True:
        page = client.get("/api/events", params={"rule": _RULE, "limit": 3}).raise_for_status().text
        if text in page:
            return
        if time.monotonic() - began > _LIMIT_S:
            raise TimeoutError(f"there is no event with {text} after {_LIMIT_S:.0f} s")
        time.sleep(_LOOK_S)


def _append(log: Path, line: str) -> None:
    with log.open("a") as file:
        file.write(f"{line}\n")


def _post(url: str, line: str) -> None:
    message = ExportLogsServiceRequest()
    record = message.resource_logs.add().scope_logs.add().log_records.add()
    record.time_unix_nano = time.time_ns()
    record.body.string_value = line
    headers = {"Authorization": f"Bearer {LOCAL_TOKEN}", "Content-Type": "application/x-protobuf"}
    httpx.post(f"{url}/v1/logs", content=message.SerializeToString(), headers=headers).raise_for_status()


def _host(system: System, folder: Path) -> dict[str, str]:
    """The `server` settings of a host of the default tenant, with a signing key and a certificate of its own."""
    tenant = json.loads((system.directory / "client.json").read_bytes())["tenant"]
    with system.administrator() as administrator:
        key = administrator.post(f"/api/admin/tenants/{tenant}/signing-keys", json={"agent": _AGENT}).raise_for_status()
        tenants = administrator.get("/api/admin/tenants").raise_for_status().json()["items"]
    [tenant_id] = [item["tenant_id"] for item in tenants if item["name"] == tenant]
    (folder / "key.json").write_text(json.dumps({name: key.json()[name] for name in ("key_id", "secret")}))
    authority = CertificateAuthority(system.directory / "tls")
    certificate = authority.issue_agent(tenant, PeerIdentity(TenantId(UUID(tenant_id)), _AGENT), datetime.now(UTC))
    return {
        "url": system.tls_url,
        "authority": str(system.directory / "tls" / "authority.pem"),
        "certificate": str(certificate),
        "key": str(certificate.with_suffix(".key")),
        "client_id": tenant,
        "signing_key": str(folder / "key.json"),
    }


if __name__ == "__main__":
    sys.exit(main())
