"""CERT_ROTATE: a new key, made here and never leaving, and a certificate for it; the old one stays until it is proven.

Candidate, verify by a call with it, switch in one step, drop the old. A crash leaves either the old pair or the new one
in use, and whatever is not in use is removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from agent.controller.control_client import ControlClient, Refused, TlsFiles, Unreachable
from agent.controller.executor import INTERRUPTED, Arguments, Ending, JobFailed, JobRun
from agent.controller.identity import IdentityFolder


def new_key_and_request(agent: str, uri: str) -> tuple[bytes, bytes]:
    """A P-256 key and a certificate request for the agent's name in the system, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)] if uri else [x509.DNSName(agent)])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, agent)]))
        .add_extension(names, critical=False)
        .sign(key, SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return secret, request.public_bytes(Encoding.PEM)


def check_certificate(chain: bytes, request: bytes, uri: str, now: datetime) -> x509.Certificate:
    """The first certificate of the chain, once it is for the request's key, this agent and now. Raises ValueError."""
    certificate = x509.load_pem_x509_certificates(chain)[0]
    wanted = x509.load_pem_x509_csr(request).public_key()
    encoding = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if certificate.public_key().public_bytes(*encoding) != wanted.public_bytes(*encoding):
        raise ValueError("the certificate is for another key")
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise ValueError("the certificate names no agent") from error
    if names.get_values_for_type(x509.UniformResourceIdentifier) != [uri]:
        raise ValueError(f"the certificate is not for {uri}")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise ValueError("the certificate is not valid now, by this host's clock")
    return certificate


class CertRotate:
    """Rotates the pair that the agent's clients use; `after` tells others of the host, and returns their troubles."""

    type: Final = "CERT_ROTATE"

    def __init__(self, identity: IdentityFolder, client: ControlClient, after: Callable[[], list[str]]) -> None:
        self._identity = identity
        self._client = client
        self._after = after

    def run(self, run: JobRun) -> Ending:
        """Carries the job out."""
        Arguments(run.job.args).done()
        if run.job.dry_run:
            run.write("would make a P-256 key and ask for a certificate for it")
            return Ending("succeeded", "dry_run")
        name = str(run.job.id)
        uri = self._identity.read().uri
        secret, request = new_key_and_request(run.job.agent, uri)
        chain, certificate = self._asked(run, request, uri)
        run.note({"pair": name})
        self._identity.add_pair(name, secret, chain)
        try:
            self._prove(run, name)
        except JobFailed:
            self._drop_unused()
            raise
        self._identity.use_pair(name)
        return self._used(run, certificate)

    def resume(self, run: JobRun) -> Ending:
        """Done when the new pair is the one in use; otherwise it is dropped, and the old one never was replaced."""
        checkpoint = run.checkpoint
        if checkpoint is not None and self._identity.pair_in_use() == checkpoint.get("pair"):
            path = self._identity.current / "certificate.pem"
            return self._used(run, x509.load_pem_x509_certificates(path.read_bytes())[0])
        self._drop_unused()
        return INTERRUPTED

    def _asked(self, run: JobRun, request: bytes, uri: str) -> tuple[bytes, x509.Certificate]:
        body = {"csr": request.decode(), "job": str(run.job.id)}
        try:
            answer = self._client.post("/agent/certificate", body)
        except (Unreachable, Refused) as error:
            raise JobFailed("not_signed", f"no certificate was given: {error}") from error
        try:
            chain = str(answer["certificate"]).encode()
            pinned = x509.load_pem_x509_certificates(self._identity.authority.read_bytes())
            named = x509.load_pem_x509_certificates(str(answer["authority"]).encode())
            if any(authority not in pinned for authority in named):
                raise ValueError("the server names another authority than the one that this agent trusts: enrol again")
            now = datetime.fromtimestamp(run.now_ms() / 1000, UTC)
            return chain, check_certificate(chain, request, uri, now)
        except (KeyError, ValueError, IndexError) as error:
            raise JobFailed("bad_certificate", f"the certificate cannot be used: {error}") from error

    def _prove(self, run: JobRun, name: str) -> None:
        folder = self._identity.pair_folder(name)
        files = TlsFiles(self._identity.authority, folder / "certificate.pem", folder / "key.pem")
        candidate = self._client.with_files(files)
        body = {"job": str(run.job.id), "lease": run.lease, "offset": 0, "data": ""}
        try:
            candidate.post("/agent/jobs/output", body)
        except (Unreachable, Refused) as error:
            raise JobFailed("not_verified", f"a call with the new certificate failed: {error}") from error
        finally:
            candidate.reconnect()
        run.write("a call with the new certificate was answered")

    def _used(self, run: JobRun, certificate: x509.Certificate) -> Ending:
        self._client.reconnect()
        self._drop_unused()
        troubles = self._after()
        for trouble in troubles:
            run.write(trouble)
        data: dict[str, Any] = {
            "serial": format(certificate.serial_number, "x"),
            "expires_at": int(certificate.not_valid_after_utc.timestamp() * 1000),
        }
        detail = f"others were not told: {'; '.join(troubles)}"[:2000] if troubles else ""
        return Ending("succeeded", "not_told" if troubles else "", detail, data)

    def _drop_unused(self) -> None:
        used = self._identity.pair_in_use()
        for folder in self._identity.current.parent.iterdir():
            if folder.is_dir() and not folder.is_symlink() and folder.name != used:
                shutil.rmtree(folder)
