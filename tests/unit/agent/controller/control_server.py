"""A Control API of a few lines, over real TLS 1.3 with client certificates: what it takes is verified as a server must.

It keeps what it was told, so that tests can ask. `hook` may stand in for its answer to a path.
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from agent.contract import SigningKey, payload_hash, read_envelope
from agent.controller.cert_rotate import new_key_and_request
from agent.controller.identity import AgentIdentity, IdentityFolder
from agent.jobs import Job, Result, sign_job, verify_result

TENANT = uuid.UUID("7b0ff1a4-3c5e-4a57-9d0b-0d7b8f8b1c11")
AGENT = "web-1"
URI = f"trustsoc://tenant/{TENANT}/agent/{AGENT}"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


class Authority:
    """A certificate authority in memory."""

    def __init__(self, name: str = "test authority") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (
            self._builder(subject, subject, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(
                x509.KeyUsage(True, False, False, False, False, True, True, False, False),
                critical=True,
            )
            .sign(self.key, SHA256())
        )
        self.pem = self.certificate.public_bytes(Encoding.PEM)

    def sign(self, csr: bytes, names: list[x509.GeneralName]) -> bytes:
        request = x509.load_pem_x509_csr(csr)
        issuer = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        certificate = (
            self._builder(request.subject, self.certificate.subject, request.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
            .sign(self.key, SHA256())
        )
        return certificate.public_bytes(Encoding.PEM)

    def _builder(self, subject: x509.Name, issuer: x509.Name, public: Any) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )


class ControlServer:
    """The server side of the contract, for one agent."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.job_key = Ed25519PrivateKey.generate()
        self.result_key = Ed25519PrivateKey.generate()
        self.signing_key = SigningKey("sk-1", "tss_sk-1_secret")
        self.items: list[dict[str, Any]] = []
        self.results: list[Result] = []
        self.outputs: dict[str, str] = {}
        self.output_certificates: list[int] = []
        self.policies: dict[str, bytes] = {}
        self.packages: dict[str, bytes] = {}
        self.files: list[dict[str, Any]] = []
        self.health: list[dict[str, Any]] = []
        self.job_keys: dict[str, str] | None = None
        self.troubles: list[str] = []
        self.clock_ahead_ms = 0
        self.hook: Callable[[str, dict[str, Any]], tuple[int, dict[str, Any]] | bytes | None] = lambda _p, _b: None
        self.changed = threading.Condition()
        self.nonces: set[str] = set()
        self._http = self._listen(folder)
        self.url = f"https://127.0.0.1:{self._http.server_address[1]}"

    def job(self, kind: str, args: dict[str, Any] | None = None, **changes: Any) -> Job:
        now = now_ms()
        fields: dict[str, Any] = {
            "id": uuid.uuid4(),
            "tenant": TENANT,
            "agent": AGENT,
            "type": kind,
            "args": args or {},
            "issued_at": now,
            "not_before": now,
            "expires_at": now + 600_000,
            "idempotency_key": uuid.uuid4().hex,
            "key_id": "jk-1",
        }
        return Job(**(fields | changes))

    def give(self, job: Job, *, key: Ed25519PrivateKey | None = None, attempt: int = 1) -> dict[str, Any]:
        text, signature = sign_job(key or self.job_key, job)
        item = {"job": text, "signature": signature, "lease": str(uuid.uuid4()), "attempt": attempt}
        self.put(item | {"lease_until": now_ms() + 60_000})
        return item

    def put(self, item: dict[str, Any]) -> None:
        with self.changed:
            self.items.append(item)
            self.changed.notify_all()

    def finals(self, job: Job) -> list[Result]:
        return [result for result in self.results if result.job == job.id and result.state != "running"]

    def wait_final(self, job: Job, seconds: float = 30.0, count: int = 1) -> Result:
        with self.changed:
            self.changed.wait_for(lambda: len(self.finals(job)) >= count, seconds)
        found = self.finals(job)
        assert len(found) >= count, f"no result of {job.type}; troubles: {self.troubles}"
        return found[-1]

    def make_identity(self, folder: Path, *, poll_s: int = 1) -> IdentityFolder:
        identity = IdentityFolder(folder)
        named = AgentIdentity(TENANT, "acme", AGENT, self.url, self.url, poll_s)
        identity.write(
            named,
            signing_key=self.signing_key,
            result_key=self.result_key,
            job_keys={"jk-1": raw(self.job_key)},
            authority=self.authority.pem,
        )
        key, csr = new_key_and_request(AGENT, URI)
        identity.add_pair("first", key, self.authority.sign(csr, [x509.UniformResourceIdentifier(URI)]))
        identity.use_pair("first")
        return identity

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _listen(self, folder: Path) -> ThreadingHTTPServer:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge")])
        csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, SHA256())
        chain = self.authority.sign(csr.public_bytes(Encoding.PEM), [x509.IPAddress(ip_address("127.0.0.1"))])
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "server.pem").write_bytes(secret + chain)
        (folder / "authority.pem").write_bytes(self.authority.pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(folder / "server.pem")
        context.load_verify_locations(folder / "authority.pem")
        context.verify_mode = ssl.CERT_OPTIONAL  # who enrols has none yet
        http = _Server(("127.0.0.1", 0), _handler(self))
        http.daemon_threads = True
        http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        return http

    def answer(self, path: str, body: dict[str, Any], serial: int) -> tuple[int, dict[str, Any]] | bytes:
        found = self.hook(path, body)
        if found is not None:
            return found
        kind, _, digest = path.rpartition("/")
        if kind in ("/agent/policies", "/agent/packages"):
            known = (self.policies if kind == "/agent/policies" else self.packages).get(digest)
            return known if known is not None else (404, {"detail": "there is none of that digest"})
        if path == "/agent/jobs/pull":
            return 200, self._pulled(body)
        if path == "/agent/jobs/result":
            return 200, self._result(body)
        if path == "/agent/jobs/output":
            so_far = self.outputs.get(body["job"], "")
            self.outputs[body["job"]] = so_far[: body["offset"]] + body["data"]
            self.output_certificates.append(serial)
            return 200, {}
        if path == "/agent/files":
            self.files.append(body)
            return 200, {}
        if path == "/agent/enroll":
            return self._enrolled(body)
        if path == "/agent/certificate":
            chain = self.authority.sign(body["csr"].encode(), [x509.UniformResourceIdentifier(URI)])
            return 200, {"certificate": chain.decode(), "authority": self.authority.pem.decode()}
        return 404, {"detail": "no such path"}

    def _enrolled(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body["token"] != "tse_good":
            return 401, {"detail": "the token enrols nobody"}
        names = [x509.UniformResourceIdentifier(f"trustsoc://tenant/{TENANT}/agent/{body['agent']}")]
        return 201, {
            "tenant": str(TENANT),
            "tenant_name": "acme",
            "agent": body["agent"],
            "certificate": self.authority.sign(body["csr"].encode(), names).decode(),
            "authority": self.authority.pem.decode(),
            "signing_key": {"key_id": self.signing_key.key_id, "secret": self.signing_key.secret},
            "job_keys": [{"key_id": "jk-1", "public_key": base64.b64encode(raw(self.job_key)).decode()}],
            "endpoints": {"ingest": self.url, "control": self.url},
            "poll_s": 30,
        }

    def _pulled(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.changed:
            self.health.append(body["health"])
            self.changed.notify_all()
            self.changed.wait_for(lambda: bool(self.items), body["wait_s"])
            items, self.items = self.items[: body["most"]], self.items[body["most"] :]
        return {"items": items, "server_time": now_ms(), "job_keys": self.job_keys}

    def _result(self, body: dict[str, Any]) -> dict[str, Any]:
        result = verify_result(body["result"].encode(), body["signature"], self.result_key.public_key(), AGENT)
        with self.changed:
            self.results.append(result)
            self.changed.notify_all()
        return {"state": result.state}


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


def _handler(server: ControlServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            serial = 0 if self.path == "/agent/enroll" else self._agent_serial(body)
            value = json.loads(body) if body else {}
            try:
                answer = server.answer(self.path, value, serial)
            except Exception as error:
                server.troubles.append(f"{self.path}: {error!r}")
                answer = 422, {"detail": repr(error)}
            status, data = (200, answer) if isinstance(answer, bytes) else (answer[0], json.dumps(answer[1]).encode())
            self.send_response(status)
            self.send_header("X-Server-Time", str(now_ms() + server.clock_ahead_ms))
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def _agent_serial(self, body: bytes) -> int:
            """The serial of the client's certificate; what is wrong with the request becomes a trouble."""
            certificate: Any = self.connection.getpeercert(binary_form=True)  # type: ignore[attr-defined]
            if certificate is None:
                server.troubles.append(f"{self.path}: no certificate")
                return 0
            found = x509.load_der_x509_certificate(certificate)
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            envelope = read_envelope({name.lower(): value for name, value in self.headers.items()})
            checks = {
                "certificate": names.get_values_for_type(x509.UniformResourceIdentifier) == [URI],
                "digest": envelope.parts.payload_hash == payload_hash(body),
                "signature": envelope.signed_by(server.signing_key.secret, self.command, self.path),
                "nonce": envelope.parts.nonce not in server.nonces,
                "tenant": envelope.parts.client_id == str(TENANT),
            }
            server.nonces.add(envelope.parts.nonce)
            server.troubles.extend(f"{self.path}: {name}" for name, good in checks.items() if not good)
            return found.serial_number

        def log_message(self, *_: Any) -> None:
            """The tests' own output is enough."""

    return Handler


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def whole_file(chunks: list[dict[str, Any]]) -> bytes:
    data = b""
    for chunk in chunks:
        assert chunk["offset"] == len(data)
        data += base64.b64decode(chunk["data"])
    return data


@contextmanager
def control_server(folder: Path) -> Iterator[ControlServer]:
    server = ControlServer(folder)
    try:
        yield server
    finally:
        server.close()
