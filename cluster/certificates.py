"""A certificate authority of one's own, for development and for sites without one: P-256 keys in files of the owner's.

The folder `tls` of the data directory: `authority.key` (stays here) and `authority.pem` (what clients trust, and whose
client certificates the edge believes), `server.key` and `server.pem`, `revoked.pem` (the revocation list), and
`agents/<tenant>.<agent>.key|pem`. Files are replaced whole, and the edge takes new ones over by itself.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.command_error import CommandError
from serve.peer import PeerIdentity, identity_of

AUTHORITY_DAYS = 3650
SERVER_DAYS = 365
AGENT_DAYS = 90
# A list that nobody renews must not lock every agent out; it is made anew with each revocation.
_REVOKED_DAYS = 3650
_BACKDATED = timedelta(minutes=5)  # clocks of agents may be a little behind


@dataclass(frozen=True, slots=True)
class CertificateFile:
    """A certificate on disk. `names` are DNS names, addresses or the agent's URI."""

    path: Path
    subject: str
    names: tuple[str, ...]
    serial: int
    begins: datetime
    ends: datetime
    revoked: bool


class CertificateAuthority:
    """The authority in one folder. Every method raises CommandError with what to do when a file is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def certificate_path(self) -> Path:
        return self.folder / "authority.pem"

    @property
    def server_path(self) -> Path:
        return self.folder / "server.pem"

    @property
    def revoked_path(self) -> Path:
        return self.folder / "revoked.pem"

    def agent_path(self, tenant_name: str, agent: str) -> Path:
        """Where the certificate of an agent is written; its key lies beside it with the suffix .key."""
        return self.folder / "agents" / f"{tenant_name}.{agent}.pem"

    def create(self, hosts: Sequence[str], now: datetime) -> None:
        """Makes the authority, a server certificate for the hosts and an empty revocation list.

        Raises CommandError when there is an authority already: agents trust that one.
        """
        if self.certificate_path.exists():
            raise CommandError(f"{self.certificate_path} exists: `trustsoc cert renew` renews what it has issued")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"Trust SOC authority of {socket.gethostname()}"[:64])
        certificate = (
            _builder(name, name, key.public_key(), now, AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, SHA256())
        )
        _write(self.folder / "authority.key", _key_bytes(key), 0o600)
        _write(self.certificate_path, certificate.public_bytes(Encoding.PEM), 0o644)
        self._write_revoked([], now)
        self.issue_server(hosts, now)

    def issue_server(self, hosts: Sequence[str], now: datetime, days: int = SERVER_DAYS) -> Path:
        """A new key and certificate for the edge, valid for the hosts (names and addresses); replaces the old one."""
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        self._issue(self.server_path, "Trust SOC edge", names, ExtendedKeyUsageOID.SERVER_AUTH, now, days)
        return self.server_path

    def issue_agent(self, tenant_name: str, identity: PeerIdentity, now: datetime, days: int = AGENT_DAYS) -> Path:
        """A new key and certificate for an agent of a tenant; replaces the agent's old one on disk."""
        path = self.agent_path(tenant_name, identity.agent)
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri)])
        self._issue(path, f"{identity.agent} of {tenant_name}"[:64], names, ExtendedKeyUsageOID.CLIENT_AUTH, now, days)
        return path

    def renew(self, path: Path, now: datetime, days: int | None = None) -> Path:
        """A new key and certificate with the names of the one at `path`, in its place."""
        old = _load(path)
        names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        subject = old.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        is_server = path == self.server_path
        usage = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
        self._issue(path, str(subject), names, usage, now, days or (SERVER_DAYS if is_server else AGENT_DAYS))
        return path

    def revoke(self, path: Path, now: datetime) -> None:
        """Puts the certificate on the revocation list, which the edge takes over within seconds."""
        certificate = _load(path)
        entries = list(self._revoked())
        if certificate.serial_number not in {entry.serial_number for entry in entries}:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(now)
            entries.append(entry.build())
        self._write_revoked(entries, now)

    def certificates(self) -> list[CertificateFile]:
        """Everything the authority has on disk: itself, the server's, the agents'."""
        revoked = {entry.serial_number for entry in self._revoked()}
        agents = sorted((self.folder / "agents").glob("*.pem")) if (self.folder / "agents").is_dir() else []
        paths = [path for path in (self.certificate_path, self.server_path) if path.exists()] + agents
        return [_described(path, revoked) for path in paths]

    def _issue(
        self,
        path: Path,
        subject: str,
        names: x509.SubjectAlternativeName,
        usage: x509.ObjectIdentifier,
        now: datetime,
        days: int,
    ) -> None:
        authority, authority_key = self._authority()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        certificate = (
            _builder(_name(subject), authority.subject, key.public_key(), now, days)
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
            .sign(authority_key, SHA256())
        )
        _write(path.with_suffix(".key"), _key_bytes(key), 0o600)
        _write(path, certificate.public_bytes(Encoding.PEM), 0o644)

    def _authority(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        certificate = _load(self.certificate_path)
        key = load_pem_private_key(_read(self.folder / "authority.key"), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CommandError(f"{self.folder / 'authority.key'} is not the P-256 key of this authority")
        return certificate, key

    def _revoked(self) -> list[x509.RevokedCertificate]:
        if not self.revoked_path.exists():
            return []
        return list(x509.load_pem_x509_crl(_read(self.revoked_path)))

    def _write_revoked(self, entries: Sequence[x509.RevokedCertificate], now: datetime) -> None:
        authority, key = self._authority()
        builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
        builder = builder.last_update(now - _BACKDATED).next_update(now + timedelta(days=_REVOKED_DAYS))
        for entry in entries:
            builder = builder.add_revoked_certificate(entry)
        _write(self.revoked_path, builder.sign(key, SHA256()).public_bytes(Encoding.PEM), 0o644)


def own_hosts() -> tuple[str, ...]:
    """The names by which this machine is reached: loopback and its own name."""
    return tuple(dict.fromkeys(("localhost", "127.0.0.1", "::1", socket.gethostname())))


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - _BACKDATED)
        .not_valid_after(now.astimezone(UTC) + timedelta(days=days))
    )


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise CommandError(f"{host!r} is no host name: write names outside ASCII in their xn-- form") from error


def _described(path: Path, revoked: set[int]) -> CertificateFile:
    certificate = _load(path)
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names: tuple[str, ...] = ()
    else:
        uris = found.get_values_for_type(x509.UniformResourceIdentifier)
        addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
        names = (*found.get_values_for_type(x509.DNSName), *addresses, *(uri for uri in uris if identity_of([uri])))
    return CertificateFile(
        path=path,
        subject=str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value),
        names=names,
        serial=certificate.serial_number,
        begins=certificate.not_valid_before_utc,
        ends=certificate.not_valid_after_utc,
        revoked=certificate.serial_number in revoked,
    )


def _load(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError as error:
        raise CommandError(f"{path} is not a certificate in PEM form") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        detail = f"cannot read {path} ({error.strerror}): `trustsoc cert init` makes the authority"
        raise CommandError(detail) from error


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replaces the file whole, so that nobody reads half a key."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(path)
