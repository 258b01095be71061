"""Enrolment: a token becomes an identity with which the agent can speak; what does not fit leaves nothing behind."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.controller.control_client import ControlClient, TlsFiles
from agent.controller.enrol import EnrolmentError, enrol
from agent.controller.identity import IdentityError, IdentityFolder
from agent.masking import MaskingKey, read_key
from tests.unit.agent.controller.control_server import AGENT, TENANT, Authority, ControlServer, raw


@pytest.fixture
def authority(tmp_path: Path, server: ControlServer) -> Path:
    path = tmp_path / "authority.pem"
    path.write_bytes(server.authority.pem)
    return path


def enrolled(server: ControlServer, folder: Path, authority: Path, *, good: bool = True) -> IdentityFolder:
    identity = IdentityFolder(folder)
    token = "tse_good" if good else "tse_bad"
    enrol(identity, control=server.url, token=token, agent=AGENT, authority=authority, version="1.0")
    return identity


def test_an_enrolled_agent_can_speak_and_its_secrets_are_its_own(
    server: ControlServer, tmp_path: Path, authority: Path
) -> None:
    seen: list[dict[str, Any]] = []
    server.hook = lambda path, body: seen.append(body) if path == "/agent/enroll" else None
    identity = enrolled(server, tmp_path / "agent", authority)
    named = identity.read()
    assert (named.tenant, named.agent, named.control, named.poll_s) == (TENANT, AGENT, server.url, 30)
    pair = TlsFiles(identity.authority, identity.current / "certificate.pem", identity.current / "key.pem")
    client = ControlClient(named, identity.signing_key(), pair)
    client.post("/agent/jobs/output", {"job": "a", "lease": "b", "offset": 0, "data": ""})
    client.reconnect()
    serial, keys = identity.job_keys()
    assert serial == 0
    assert keys["jk-1"].public_bytes(Encoding.Raw, PublicFormat.Raw) == raw(server.job_key)
    assert "PRIVATE" not in str(seen)
    for path in (tmp_path / "agent").rglob("*"):
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_an_identity_is_never_replaced_by_another(server: ControlServer, tmp_path: Path, authority: Path) -> None:
    enrolled(server, tmp_path / "agent", authority)
    with pytest.raises(EnrolmentError, match="already"):
        enrolled(server, tmp_path / "agent", authority)


def test_a_token_that_enrols_nobody_and_a_server_of_another_authority(
    server: ControlServer, tmp_path: Path, authority: Path
) -> None:
    with pytest.raises(EnrolmentError, match="enrols nobody"):
        enrolled(server, tmp_path / "agent", authority, good=False)
    authority.write_bytes(Authority().pem)
    with pytest.raises(EnrolmentError, match="CERTIFICATE_VERIFY_FAILED"):
        enrolled(server, tmp_path / "agent", authority)
    assert not (tmp_path / "agent").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"agent": "web-2"},
        {"tenant": "x"},
        {"certificate": "x"},
        {"job_keys": []},
        {"job_keys": [{"key_id": "a", "public_key": "YQ=="}]},
        {"signing_key": {}},
        {"endpoints": {"control": "https://a"}},
        {"poll_s": "often"},
    ],
)
def test_an_answer_that_does_not_fit_leaves_no_identity(
    server: ControlServer, tmp_path: Path, authority: Path, change: dict[str, Any]
) -> None:
    server.hook = lambda path, body: (201, server._enrolled(body)[1] | change)
    with pytest.raises(EnrolmentError, match="cannot be used"):
        enrolled(server, tmp_path / "agent", authority)
    with pytest.raises(IdentityError):
        IdentityFolder(tmp_path / "agent").read()


KEY = MaskingKey(bytes(range(32)), 3)


def answering(server: ControlServer, change: dict[str, Any]) -> None:
    """The server's answer to an enrolment with something else in it."""
    server.hook = lambda path, body: (201, server._enrolled(body)[1] | change) if path == "/agent/enroll" else None


def test_the_key_of_a_tenant_that_masks_is_kept_where_the_forwarder_reads_it(
    server: ControlServer, tmp_path: Path, authority: Path
) -> None:
    answering(server, {"masking_key": KEY.text})
    identity = enrolled(server, tmp_path / "agent", authority)
    assert identity.masking_key == tmp_path / "agent" / "masking.key"
    assert stat.S_IMODE(identity.masking_key.stat().st_mode) == 0o600
    assert read_key(identity.masking_key) == KEY


def test_a_new_identity_keeps_no_masking_key_of_the_one_before(
    server: ControlServer, tmp_path: Path, authority: Path
) -> None:
    answering(server, {"masking_key": KEY.text})
    identity = enrolled(server, tmp_path / "agent", authority)
    (tmp_path / "agent" / "identity.json").unlink()
    answering(server, {"masking_key": None})
    enrolled(server, tmp_path / "agent", authority)
    assert not identity.masking_key.exists()


@pytest.mark.parametrize("text", ["", "tsm_1_short", KEY.text + "x", 5, {"key": "x"}])
def test_a_masking_key_that_is_none_leaves_no_identity(
    server: ControlServer, tmp_path: Path, authority: Path, text: Any
) -> None:
    answering(server, {"masking_key": text})
    with pytest.raises(EnrolmentError, match="masking key"):
        enrolled(server, tmp_path / "agent", authority)
    assert not (tmp_path / "agent").exists()
