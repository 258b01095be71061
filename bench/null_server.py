"""A server that keeps nothing: it says that every batch is stored, over TLS 1.3 with client certificates.

What is sent to `/v1/logs` is counted in records, in this process of its own, so that a sender's end can be seen.
"""

from __future__ import annotations

import gzip
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from bench.system import free_port
from cluster.certificates import CertificateAuthority
from detect.otlp import count_records
from detect.record import TenantId
from serve.peer import PeerIdentity

_UP_S = 30.0
_CERTIFICATES = "agents/acme.bench"


@dataclass(frozen=True, slots=True)
class NullServer:
    """Where it is, and the files that a sender needs."""

    port: int
    authority: Path
    certificate: Path
    key: Path
    client: httpx.Client

    def records(self) -> int:
        """Records that came to /v1/logs so far."""
        return int(self.client.get("/").text)


@contextmanager
def null_server(folder: Path) -> Iterator[NullServer]:
    """Runs in a process of its own until the block ends; `folder` takes its certificates."""
    authority = CertificateAuthority(folder / "tls")
    now = datetime.now(UTC)
    authority.create(["localhost"], now)
    authority.issue_agent("acme", PeerIdentity(TenantId(UUID(int=1)), "bench"), now)
    tls, port = authority.folder, free_port()
    certificate = tls / f"{_CERTIFICATES}.pem"
    context = ssl.create_default_context(cafile=str(tls / "authority.pem"))
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    server = subprocess.Popen([sys.executable, "-m", "bench.null_server", str(port), str(tls)])
    try:
        with httpx.Client(base_url=f"https://localhost:{port}", verify=context) as client:
            made = NullServer(port, tls / "authority.pem", certificate, certificate.with_suffix(".key"), client)
            _await_up(made)
            yield made
    finally:
        server.kill()
        server.wait()


def _await_up(server: NullServer) -> None:
    deadline = time.monotonic() + _UP_S
    while True:
        try:
            server.records()
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def serve(port: int, tls: Path) -> None:
    """Serves until it is killed."""
    import uvicorn

    seq = records = 0

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal seq, records
        if scope["type"] != "http":
            return
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        seq += 1
        if scope["path"] == "/v1/logs":
            records += count_records("otlp_protobuf", gzip.decompress(body))
        headers = [
            (b"x-server-time", str(time.time_ns() // 1_000_000).encode()),
            (b"x-batch-seq", str(seq).encode()),
            (b"x-batch-duplicate", b"false"),
        ]
        answer = str(records).encode() if scope["method"] == "GET" else b""
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    uvicorn.run(
        application,
        port=port,
        host="127.0.0.1",
        lifespan="off",
        log_level="error",
        ssl_certfile=str(tls / "server.pem"),
        ssl_keyfile=str(tls / "server.key"),
        ssl_ca_certs=str(tls / "authority.pem"),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
    )


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
