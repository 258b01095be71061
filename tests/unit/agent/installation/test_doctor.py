"""The doctor names each defect, and what mends it; on a sound installation it finds nothing."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from agent.controller.collector_configs import CollectorConfigs
from agent.installation.doctor import Finding, examine
from agent.installation.places import Places
from agent.masking.key import KEY_BYTES, MaskingKey
from tests.unit.agent.installation.conftest import Host


def errors(places: Places, *, offline: bool = True) -> list[Finding]:
    return [finding for finding in examine(places, offline=offline) if finding.severity == "error"]


def test_a_fresh_installation_is_sound_but_does_not_run(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.enrol(tail=True) == 0
    findings = examine(host.places)
    # The test's authority signs for a day.
    assert [finding.name for finding in findings if finding.severity != "ok"] == ["certificate", "running"]
    assert {"identity", "certificate", "secrets", "policy", "collector", "disk", "server"} <= {
        finding.name for finding in findings
    }
    capsys.readouterr()
    assert host.command("doctor", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "identity"


def _edit(path: str, old: str, new: str) -> Callable[[Places], None]:
    def edit(places: Places) -> None:
        file = getattr(places, path)
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return edit


@pytest.mark.parametrize(
    ("break_it", "name", "what"),
    [
        (lambda places: places.token.chmod(0o644), "secrets", "token"),
        (lambda places: (places.state / "job_keys.json").unlink(), "identity", "job_keys.json"),
        (lambda places: (places.state / "result.key").write_text("x"), "identity", "result.key"),
        (lambda places: (places.state / "signing_key.json").write_text("{}"), "forwarder", "signing key"),
        (lambda places: places.token.write_text("None"), "forwarder", "forgot"),
        (lambda places: places.policy.chmod(0o666), "policy", "chmod"),
        (lambda places: places.policy.write_text("surprise: 1"), "policy", "surprise"),
        (_edit("forwarder", "client_id: ", "client_id: not-"), "forwarder", "client_id"),
        (_edit("forwarder", "port: ", "ports: "), "forwarder", "ports"),
        (_edit("controller", "folder: ", "folder: /elsewhere"), "controller", "elsewhere"),
        (_edit("collector", "filelog", "filelogger"), "collector", "not valid"),
        (lambda places: places.forwarder.unlink(), "forwarder", "forwarder.yml"),
    ],
)
def test_a_defect_is_named(host: Host, break_it: Callable[[Places], None], name: str, what: str) -> None:
    assert host.enrol(tail=True) == 0
    assert errors(host.places) == []
    break_it(host.places)
    found = errors(host.places)
    assert name in [finding.name for finding in found]
    assert what in " ".join(finding.detail for finding in found if finding.name == name)
    assert host.command("doctor", "--offline") == 1


def test_a_configuration_that_its_owner_changed_is_judged_before_it_is_taken(host: Host) -> None:
    assert host.enrol(tail=True) == 0
    CollectorConfigs(host.places.state / "collector").adopt(host.places.collector)
    assert errors(host.places) == []
    host.places.collector.write_text(host.places.collector.read_text().replace("filelog", "filelogger"))
    found = errors(host.places)
    assert [finding.name for finding in found] == ["collector"]
    assert str(host.places.collector) in found[0].detail


def test_a_forwarder_that_does_not_mask_for_a_tenant_that_does(host: Host) -> None:
    host.site.answer["masking_key"] = MaskingKey(bytes(KEY_BYTES)).text
    assert host.enrol() == 0
    assert errors(host.places) == []
    text = host.places.forwarder.read_text()
    host.places.forwarder.write_text(text[: text.index("masking:")])
    assert "the tenant masks" in errors(host.places)[0].detail


def test_a_server_that_is_away_is_an_error_unless_nobody_looked(host: Host) -> None:
    assert host.enrol() == 0
    assert errors(host.places, offline=False) == []
    host.site.ingest.close()
    assert "cannot be reached" in errors(host.places, offline=False)[0].detail
    assert errors(host.places) == []


def test_a_server_of_another_authority_is_not_the_server(host: Host) -> None:
    from tests.unit.agent.controller.control_server import Authority

    assert host.enrol() == 0
    (host.places.state / "tls" / "authority.pem").write_bytes(Authority().pem)
    found = errors(host.places, offline=False)
    assert found
    assert all("not the server that this agent trusts" in finding.detail for finding in found)


def test_a_host_that_is_not_enrolled(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert "enroll" in errors(host.places)[0].detail
    assert host.command("status") == 1
    assert "not_enrolled" in capsys.readouterr().out


def test_a_certificate_that_the_server_does_not_take(host: Host) -> None:
    from agent.controller.cert_rotate import new_key_and_request
    from tests.unit.agent.controller.control_server import AGENT, URI, Authority

    assert host.enrol() == 0
    key, csr = new_key_and_request(AGENT, URI)
    pair = host.places.state / "tls" / "current"
    (pair / "key.pem").write_bytes(key)
    (pair / "certificate.pem").write_bytes(Authority().sign(csr, []))
    found = errors(host.places, offline=False)
    assert len(found) == 2
    assert all("certificate" in finding.detail for finding in found)
