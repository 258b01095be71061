"""`trustsoc-agent enroll`: what it makes, what it leaves alone, what it refuses before anything is made."""

from __future__ import annotations

import io
import os
import pwd
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agent.cli import host_name, main
from agent.collector import KEY_VARIABLE
from agent.collector.binary import find_binary
from agent.controller.collector_configs import CollectorConfigs
from agent.controller.config_check import check_config
from agent.controller.enrol import usable_address
from agent.controller.settings import read_settings
from agent.forwarder.config import read_config, read_token
from agent.host_policy import read_host_policy
from agent.installation.account import acting_as, owner_of
from agent.installation.doctor import examine
from agent.installation.places import COLLECTOR_KEY, Places
from agent.masking.key import KEY_BYTES, MaskingKey
from tests.unit.agent.controller.control_server import TENANT
from tests.unit.agent.installation.conftest import Host, Site, free_port


def test_what_is_made_is_what_the_programs_read(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.enrol("--label", "role=web", tail=True) == 0
    said = capsys.readouterr().out
    assert "Enrolled web-1 for acme" in said
    config = read_config(host.places.forwarder)
    assert (config.server.client_id, config.listen.port, config.masking) == (str(TENANT), host.port, None)
    settings = read_settings(host.places.controller)
    assert settings.labels == {"role": "web"}
    assert settings.rules.pid_files == settings.certificate.pid_files == (str(host.places.forwarder_pid),)
    assert sorted(read_host_policy(host.places.policy).jobs) == ["CERT_ROTATE", "PING", "RULES_RELOAD"]
    token = read_token(host.places.token)
    assert host.places.collector_environment.read_text() == f"{KEY_VARIABLE}={token}\n"
    assert token not in said
    assert COLLECTOR_KEY == KEY_VARIABLE


def test_its_own_files_are_private_and_the_settings_are_for_all_to_read(host: Host) -> None:
    assert host.enrol(tail=True) == 0
    for path in (host.places.state, *host.places.state.rglob("*")):
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    for path in (host.places.settings, *host.places.settings.iterdir()):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert (mode & 0o044, mode & 0o022) == (0o044, 0), path
        if path.is_file():
            text = path.read_text()
            assert "PRIVATE" not in text
            assert "tss_" not in text


def test_the_configuration_that_is_written_is_one_that_the_policy_that_is_written_allows(host: Host) -> None:
    for more in ((), ("--collector", str(find_binary()))):
        places = Places(host.places.settings / f"s{len(more)}", host.places.state / f"t{len(more)}")
        made = Host(places, host.site, host.logs, 4320 + len(more))
        assert made.enrol(*more, "--tail", "/var/log/*.log") == 0
        policy = read_host_policy(places.policy).update_config
        text = places.collector.read_text()
        assert check_config(text, policy) == []
        assert ("file_storage" in text) == bool(more)
    assert read_settings(places.controller).collector.binary == str(find_binary())
    configs = CollectorConfigs(places.state / "collector")
    configs.adopt(places.collector)
    assert configs.current.read_text() == places.collector.read_text()


def test_a_tenant_that_masks_has_the_forwarder_mask_and_no_queue_of_clear_text(host: Host) -> None:
    host.site.answer["masking_key"] = MaskingKey(bytes(KEY_BYTES)).text
    assert host.enrol("--collector", str(find_binary()), tail=True) == 0
    config = read_config(host.places.forwarder)
    assert config.masking is not None
    assert config.masking.key == host.places.masking_key
    exporter = yaml.safe_load(host.places.collector.read_text())["exporters"]["otlphttp"]
    assert exporter["sending_queue"] == {"enabled": False}


def test_settings_of_before_are_kept_and_a_second_identity_is_refused(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.places.settings.mkdir()
    host.places.policy.write_text("jobs: {}\n")
    assert host.enrol() == 0
    assert f"kept {host.places.policy}" in capsys.readouterr().out
    assert host.places.policy.read_text() == "jobs: {}\n"
    identity = (host.places.state / "identity.json").read_bytes()
    assert host.enrol() == 2
    assert "holds an identity already" in capsys.readouterr().err
    assert (host.places.state / "identity.json").read_bytes() == identity


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--name", "two words"), "agent's name"),
        (("--port", "0"), "--port"),
        (("--port", "65536"), "--port"),
        (("--label", "x"), "NAME=VALUE"),
        (("--tail", "relative/*.log"), "absolute"),
        (("--tail", "/var/log/../../etc/shadow"), "absolute"),
        (("--collector", "/nowhere/otelcol"), "no program"),
        (("--token-file", "/nowhere/token"), "cannot be read"),
        (("--token-file", os.devnull), "empty"),
        (("--authority", "/nowhere/authority.pem"), "No such file"),
        (("--user", "nobody-of-that-name"), "no account"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(
    host: Host, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], what: str
) -> None:
    assert host.enrol(*more) == 2
    assert what in capsys.readouterr().err
    assert not host.places.state.exists()
    assert not host.places.settings.exists()


def test_a_token_that_is_refused_leaves_no_identity(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    (host.site.folder / "enrolment").write_text("tse_bad\n")
    assert host.enrol() == 2
    assert "the token enrols nobody" in capsys.readouterr().err
    assert not (host.places.state / "identity.json").exists()
    assert not host.places.forwarder.exists()


def test_the_token_comes_from_standard_input_or_the_environment_and_never_as_a_word(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("tse_bad\n"))
    assert host.enrol("--token-file", "-") == 2
    assert "enrols nobody" in capsys.readouterr().err
    assert host.enrol("--token-file", "") == 2
    assert "no enrolment token" in capsys.readouterr().err
    monkeypatch.setenv("TRUSTSOC_ENROL_TOKEN", "tse_good")
    assert host.enrol("--token-file", "") == 0
    with pytest.raises(SystemExit):
        host.enrol("--token", "tse_good")


def test_of_a_token_file_the_first_line_counts(host: Host) -> None:
    """The server's command writes a sentence below the token."""
    (host.site.folder / "enrolment").write_text("tse_good\nEnrols one agent until tomorrow. Keep it now.\n")
    assert host.enrol() == 0


def test_a_host_whose_name_has_capitals_is_called_as_servers_call_it(host: Host) -> None:
    assert host_name("WEB-1.example.org") == "web-1"
    assert host.enrol("--name", "Web-1") == 2


def test_without_a_collector_there_is_nothing_that_could_tail(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What the import system does for a package that is not there.
    monkeypatch.setitem(sys.modules, "otel_collector", None)
    assert host.enrol(tail=True) == 2
    assert "--collector" in capsys.readouterr().err
    assert not host.places.state.exists()
    assert host.enrol() == 0


def test_the_collector_s_program_is_found_from_everywhere(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(find_binary().parent)
    assert host.enrol("--collector", f"./{find_binary().name}", tail=True) == 0
    binary = Path(read_settings(host.places.controller).collector.binary)
    assert binary.is_absolute()
    assert binary.samefile(find_binary())


@pytest.mark.parametrize(
    ("named", "asked", "used"),
    [
        ("https://soc.example:4319", "https://10.0.0.1:4319", "https://soc.example:4319"),
        ("https://127.0.0.1:4319", "https://soc.example:4319/base", "https://soc.example:4319/base"),
        ("https://localhost:4319", "https://10.0.0.1", "https://10.0.0.1"),
        ("https://127.0.0.1:1", "https://localhost:2", "https://127.0.0.1:1"),
    ],
)
def test_an_address_of_the_server_s_own_host_is_of_no_use_elsewhere(named: str, asked: str, used: str) -> None:
    assert usable_address(named, asked) == used


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[2Jnothing", "x" * 201, 7])
def test_a_tenant_s_name_gives_no_orders_to_a_terminal(host: Host, name: object) -> None:
    host.site.answer["tenant_name"] = name
    assert host.enrol() == 2
    assert not (host.places.state / "identity.json").exists()


@pytest.fixture
def open_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One that another account can enter. The interpreter of the tests may be root's alone."""
    monkeypatch.setattr("agent.installation.account.PROGRAMS", ())
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can enrol for another account")
def test_root_enrols_for_the_account_and_cannot_run_in_its_place(
    open_folder: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = pwd.getpwnam("nobody")
    host = Host(Places(open_folder / "settings", open_folder / "state"), site, open_folder, free_port())
    assert host.enrol("--user", "nobody") == 0
    assert {path.lstat().st_uid for path in (host.places.state, *host.places.state.rglob("*"))} == {nobody.pw_uid}
    assert {path.stat().st_uid for path in host.places.settings.rglob("*")} == {0}
    assert os.geteuid() == 0
    owner = owner_of(host.places.state)
    with acting_as(owner):
        # What the agent's programs do first, as the account that they run as.
        assert read_config(host.places.forwarder).server.key.read_text().startswith("-----BEGIN PRIVATE KEY")
        assert read_host_policy(host.places.policy).jobs
        with pytest.raises(PermissionError):
            host.places.policy.write_text("jobs: {UPGRADE: }\n")
    assert host.command("run") == 2
    assert "nobody" in capsys.readouterr().err
    # Who looks does it as the account: root would read what the agent itself cannot.
    assert [finding for finding in examine(host.places, offline=True) if finding.severity == "error"] == []
    host.places.authority.chmod(0o600)
    host.places.forwarder.chmod(0o600)
    named = {finding.name: finding.detail for finding in examine(host.places, offline=True)}
    assert f"nobody cannot read {host.places.forwarder}, {host.places.authority}" in named["account"]
    assert os.geteuid() == 0
    assert host.command("uninstall", "--yes") == 0
    assert list(host.places.state.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root looks as another account")
def test_the_doctor_has_the_collector_run_as_the_account(open_folder: Path, site: Site) -> None:
    """The account, or who broke into it, writes what the collector is asked to judge."""
    secret, told = open_folder / "secret", open_folder / "told"
    secret.write_text("for root alone")
    secret.chmod(0o600)
    told.touch()
    told.chmod(0o666)
    program = open_folder / "otelcol"
    program.write_text(f"#!/bin/sh\n(id -u; id -ru; id -G; cat {secret}) > {told} 2>&1\n")
    program.chmod(0o755)
    host = Host(Places(open_folder / "settings", open_folder / "state"), site, open_folder, free_port())
    assert host.enrol("--user", "nobody", "--collector", str(program), tail=True) == 0
    examine(host.places, offline=True)
    nobody = pwd.getpwnam("nobody")
    effective, real, groups, denied = told.read_text().splitlines()
    assert (effective, real) == (str(nobody.pw_uid), str(nobody.pw_uid))
    assert "0" not in groups.split()
    assert "Permission denied" in denied


@pytest.mark.skipif(os.geteuid() != 0, reason="only root enrols for another account")
def test_an_account_that_could_not_read_the_programs_is_not_enrolled(
    open_folder: Path, site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(Places(open_folder / "settings", open_folder / "state"), site, open_folder, free_port())
    copy = open_folder / "enrolment.py"
    copy.touch(mode=0o600)
    monkeypatch.setattr("agent.installation.account.PROGRAMS", (copy,))
    assert host.enrol("--user", "nobody") == 2
    assert "cannot read the agent's programs" in capsys.readouterr().err
    assert not host.places.state.exists()


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
