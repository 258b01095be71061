"""Certificates of agents from somebody else's authority: a program that is asked, and whose answers are checked."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.contract.control.edge import ControlEdge, Host, control_edge
from tests.postgres.fixtures import Database

# A small authority as a company may have one: an intermediate that signs what it is asked to, and hands out its chain.
_PROGRAM = """
import os, sys, datetime
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.hazmat.primitives.asymmetric import ec
folder, mood = sys.argv[1:]
request = x509.load_pem_x509_csr(sys.stdin.buffer.read())
if mood == "refusing":
    sys.exit("not today")
if mood == "silent":
    sys.exit(0)
key = load_pem_private_key(open(folder + "/signer.key", "rb").read(), None)
signer = x509.load_pem_x509_certificate(open(folder + "/signer.pem", "rb").read())
uri = os.environ["TRUSTSOC_CERTIFICATE_URI"]
if mood == "other name":
    uri = uri.replace("web-1", "web-2")
now = datetime.datetime.now(datetime.UTC)
begin = now - datetime.timedelta(days=9) if mood == "over" else now - datetime.timedelta(minutes=1)
days = 1 if mood == "over" else int(os.environ["TRUSTSOC_CERTIFICATE_DAYS"])
public = ec.generate_private_key(ec.SECP256R1()).public_key() if mood == "other key" else request.public_key()
usages = [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH if mood == "server" else x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]
builder = (
    x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(signer.subject).public_key(public)
    .serial_number(x509.random_serial_number()).not_valid_before(begin)
    .not_valid_after(begin + datetime.timedelta(days=days))
    .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
    .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    .add_extension(x509.BasicConstraints(ca=mood == "authority", path_length=None), critical=True)
)
sys.stdout.buffer.write(builder.sign(key, SHA256()).public_bytes(Encoding.PEM))
if mood != "no chain":
    sys.stdout.buffer.write(signer.public_bytes(Encoding.PEM))
"""


def _authority(
    name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.now(UTC)
    above = issuer[0].subject if issuer else subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    return builder.sign(issuer[1] if issuer else key, SHA256()), key


@asynccontextmanager
async def asked(database: Database, folder: Path, mood: str) -> AsyncIterator[ControlEdge]:
    """An edge whose agents' certificates come from a program in that mood, of an intermediate below a trusted root."""
    root = _authority("root", None)
    signer, key = _authority("signer", None if mood == "stranger" else root)
    (folder / "signer.pem").write_bytes(signer.public_bytes(Encoding.PEM))
    (folder / "signer.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "trusted.pem").write_bytes(root[0].public_bytes(Encoding.PEM))
    (folder / "ask.py").write_text(_PROGRAM)
    command = f"{sys.executable} {folder / 'ask.py'} {folder} '{mood}'" if mood != "none" else ""
    async with control_edge(
        database,
        folder,
        agent_authority="external",
        agent_authority_command=command,
        agent_authority_certificates=folder / "trusted.pem",
    ) as edge:
        yield edge


async def test_an_agent_gets_the_certificate_and_chain_that_the_program_wrote(
    database: Database, tmp_path: Path
) -> None:
    async with asked(database, tmp_path, "kind") as edge:
        host = await edge.host("web-1")
        leaf, between = x509.load_pem_x509_certificates(host.answer["certificate"].encode())
        root = x509.load_pem_x509_certificate(host.answer["authority"].encode())
        leaf.verify_directly_issued_by(between)
        between.verify_directly_issued_by(root)
        shown = (await edge.call("GET", "/api/agents/web-1", key="reader")).json()
        [listed] = shown["certificates"]
        assert int(listed["serial"], 16) == leaf.serial_number
        # Revoking ends the agent here; the list of revoked certificates is the other authority's.
        assert (await edge.call("POST", "/api/agents/web-1/revoke", {})).status_code == 200
        assert not list(x509.load_pem_x509_crl((tmp_path / "tls" / "revoked.pem").read_bytes()))


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        ("none", "TRUSTSOC_AGENT_AUTHORITY_COMMAND"),
        ("refusing", "status 1"),
        ("silent", "no certificate"),
        ("other key", "another key"),
        ("other name", "no other agent"),
        ("server", "clients"),
        ("authority", "sign certificates itself"),
        ("over", "not valid now"),
        ("stranger", "no authority"),
        ("no chain", "no authority"),
    ],
)
async def test_what_is_not_this_agents_certificate_enrols_nobody_and_spends_nothing(
    database: Database, tmp_path: Path, mood: str, said: str
) -> None:
    async with asked(database, tmp_path, mood) as edge:
        refused = await Host(edge, "web-1").enrol(await edge.token())
        assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
        assert said in refused.json()["detail"]
        assert (await edge.call("GET", "/api/agent-tokens")).json()["items"][0]["spent_at"] is None


async def test_the_program_is_not_told_the_secrets_of_this_process(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUSTSOC_SECRET_OF_OURS", "x")
    async with asked(database, tmp_path, "kind") as edge:
        program = tmp_path / "ask.py"
        program.write_text(
            f"import os\nopen({str(tmp_path / 'seen')!r}, 'w').write('\\n'.join(os.environ))\n" + program.read_text()
        )
        await edge.host("web-1")
    seen = (tmp_path / "seen").read_text().split()
    assert "TRUSTSOC_CERTIFICATE_URI" in seen
    assert not {"TRUSTSOC_SECRET_OF_OURS"} & set(seen)
    assert "TRUSTSOC_SECRET_OF_OURS" in os.environ
