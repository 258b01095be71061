"""CERT_ROTATE: the key is made on the host, the new pair is proven before it is used, the old one goes last."""

from __future__ import annotations

import json
import stat
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from agent.controller.settings import ControllerSettings
from agent.jobs import Job
from tests.unit.agent.controller.conftest import Started
from tests.unit.agent.controller.control_server import URI, Authority, ControlServer
from tests.unit.agent.controller.test_crashes import program


def in_use(settings: ControllerSettings) -> x509.Certificate:
    return x509.load_pem_x509_certificate((Path(settings.folder) / "tls/current/certificate.pem").read_bytes())


def pairs(settings: ControllerSettings) -> set[str]:
    return {path.name for path in (Path(settings.folder) / "tls").iterdir() if path.is_dir() and not path.is_symlink()}


def rotation(server: ControlServer, **changes: Any) -> Job:
    job = server.job("CERT_ROTATE", **changes)
    server.give(job)
    return job


def test_a_rotation_proves_the_new_pair_uses_it_and_drops_the_old(
    server: ControlServer, start: Started, settings: ControllerSettings, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    before = in_use(settings).serial_number
    start(certificate=replace(settings.certificate, command=("/usr/bin/touch", str(told))))
    job = rotation(server)
    result = server.wait_final(job)
    assert (result.state, result.reason) == ("succeeded", "")
    after = in_use(settings)
    assert after.serial_number != before
    assert result.data["serial"] == format(after.serial_number, "x")
    assert server.output_certificates[0] == after.serial_number, "the proof was a call with the new certificate"
    assert pairs(settings) == {str(job.id)}
    key = Path(settings.folder) / "tls" / str(job.id) / "key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert told.exists()
    ping = server.job("PING")
    server.give(ping)
    assert server.wait_final(ping).state == "succeeded"


def foreign_key(server: ControlServer, body: dict[str, Any]) -> dict[str, Any]:
    from agent.controller.cert_rotate import new_key_and_request

    return signed(server, {"csr": new_key_and_request("web-1", URI)[1].decode()})


def signed(server: ControlServer, body: dict[str, Any], name: str = URI) -> dict[str, Any]:
    chain = server.authority.sign(body["csr"].encode(), [x509.UniformResourceIdentifier(name)])
    return {"certificate": chain.decode(), "authority": server.authority.pem.decode()}


BAD = {
    "for another key": foreign_key,
    "for another agent": lambda server, body: signed(server, body, URI + "2"),
    "of another authority": lambda server, body: signed(server, body) | {"authority": Authority().pem.decode()},
    "no certificate": lambda server, body: {"certificate": "x", "authority": server.authority.pem.decode()},
    "nothing": lambda _server, _body: {},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_certificate_that_is_not_right_changes_nothing(
    server: ControlServer, start: Started, settings: ControllerSettings, bad: Any
) -> None:
    before = in_use(settings).serial_number
    server.hook = lambda path, body: (200, bad(server, body)) if path == "/agent/certificate" else None
    start()
    result = server.wait_final(rotation(server))
    assert (result.state, result.reason) == ("failed", "bad_certificate")
    assert in_use(settings).serial_number == before
    assert pairs(settings) == {"first"}


def test_a_certificate_that_the_edge_does_not_take_is_rolled_back(
    server: ControlServer, start: Started, settings: ControllerSettings
) -> None:
    before = in_use(settings).serial_number
    stranger = Authority()

    def hook(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        if path != "/agent/certificate":
            return None
        chain = stranger.sign(body["csr"].encode(), [x509.UniformResourceIdentifier(URI)])
        return 200, {"certificate": chain.decode(), "authority": server.authority.pem.decode()}

    server.hook = hook
    start()
    result = server.wait_final(rotation(server))
    assert (result.state, result.reason) == ("failed", "not_verified")
    assert in_use(settings).serial_number == before
    assert pairs(settings) == {"first"}


def test_a_server_that_signs_nothing_and_a_dry_run_change_nothing(
    server: ControlServer, start: Started, settings: ControllerSettings
) -> None:
    server.hook = lambda path, _: (422, {"detail": "no authority"}) if path == "/agent/certificate" else None
    start()
    assert server.wait_final(rotation(server)).reason == "not_signed"
    assert server.wait_final(rotation(server, dry_run=True)).reason == "dry_run"
    assert pairs(settings) == {"first"}


@pytest.mark.parametrize("step", range(7, 34, 3))
def test_killed_at_any_step_one_whole_pair_is_in_use(
    server: ControlServer, settings: ControllerSettings, tmp_path: Path, step: int
) -> None:
    value = asdict(settings)
    for section in ("collector", "rules", "certificate", "upgrade"):
        del value[section]
    path = tmp_path / "controller.yml"
    path.write_text(yaml.safe_dump(value))
    job = rotation(server)
    item = dict(server.items[0])
    with program(path, step) as killed:
        deadline = time.monotonic() + 30
        while killed.poll() is None and not server.finals(job) and time.monotonic() < deadline:
            time.sleep(0.02)
    if not server.finals(job):
        server.items = [item | {"attempt": 2, "lease": "99999999-2222-4333-8444-555555555555"}]
    with program(path):
        result = server.wait_final(job)
        ping = server.job("PING")
        server.give(ping)
        assert server.wait_final(ping).state == "succeeded"
    assert pairs(settings) == {str(job.id) if result.state == "succeeded" else "first"}
    assert json.dumps(result.reason) in {'""', '"interrupted"'}
