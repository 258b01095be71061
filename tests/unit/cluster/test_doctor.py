"""The doctor looks at the real machine and names what mends it."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from cluster.data_directory import ClientCredentials, DataDirectory
from cluster.doctor import as_json, usable
from cluster.doctor_check import Check, Place
from cluster.doctor_machine import address_in_use, data_directory_check, port_check
from cluster.doctor_software import missing_packages, packages_check, postgres_check, runs


def test_this_machine_is_described_completely(run: Any) -> None:
    outcome = run("doctor", "--json", "--port", str(free_port()))
    names = [check["name"] for check in outcome.json["checks"]]
    assert names == [
        "python", "system", "memory", "disk", "shared memory", "data directory", "database disk", "user", "port",
        "packages", "postgresql", "proxy", "collector", "language model",
    ]  # fmt: skip
    missing = [check for check in outcome.json["checks"] if check["state"] == "missing"]
    assert outcome.json["usable"] is not bool(missing)
    assert outcome.code == (1 if missing else 0)
    assert all(check["mend"] for check in outcome.json["checks"] if check["state"] != "ok")


def test_a_taken_port_is_missing_and_the_command_that_mends_it_is_shown(run: Any, taken_port: int) -> None:
    outcome = run("doctor", "--port", str(taken_port))
    assert outcome.code == 1
    flat = " ".join(outcome.out.split())
    assert f"trustsoc up --port {taken_port + 1}" in flat
    assert "✗ missing" in flat


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_addresses(taken_port: int, tmp_path: Path) -> None:
    assert address_in_use("127.0.0.1", taken_port) == "Address already in use"
    assert address_in_use("127.0.0.1", free_port()) == ""
    assert address_in_use("no-such-host.invalid", 1)
    place = Place(DataDirectory(tmp_path), "127.0.0.1", taken_port)
    assert port_check(place).state == "missing"


def test_a_data_directory_is_judged_by_what_it_is(tmp_path: Path) -> None:
    missing = DataDirectory(tmp_path / "new" / "deep")
    assert data_directory_check(missing).state == "ok"
    assert not missing.path.exists()
    (tmp_path / "file").write_text("x")
    assert data_directory_check(DataDirectory(tmp_path / "file")).state == "missing"
    open_to_all = DataDirectory(tmp_path / "open")
    open_to_all.create()
    open_to_all.path.chmod(0o777)
    assert data_directory_check(open_to_all).mend == f"chmod go-w {open_to_all.path}"
    open_to_all.path.chmod(0o700)
    open_to_all.write_credentials(ClientCredentials("http://x", "key"))
    open_to_all.client_path.chmod(0o644)
    assert data_directory_check(open_to_all).mend == f"chmod 600 {open_to_all.client_path}"


def test_a_program_that_does_not_run_is_missing(tmp_path: Path) -> None:
    assert runs("tool", [str(tmp_path / "nothing")]).state == "missing"
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no library >&2\nexit 127\n")
    broken.chmod(0o755)
    found = runs("tool", [str(broken), "--version"])
    assert (found.state, "no library" in found.found) == ("missing", True)


def test_packages_are_compared_with_what_the_installation_requires() -> None:
    assert all(" is " in problem for problem in missing_packages("pytest"))
    assert missing_packages("pytest") == []
    assert packages_check().state in ("ok", "missing")


def test_an_external_postgresql_that_does_not_answer_is_named_without_its_password() -> None:
    found = postgres_check(f"postgresql://user:very-secret@127.0.0.1:{free_port()}/trustsoc")
    assert found.state == "missing"
    assert "very-secret" not in found.found + found.mend


def test_only_what_is_missing_makes_the_machine_unusable() -> None:
    checks = [Check("a", "ok", "here"), Check("b", "warning", "hm", "do")]
    assert usable(checks)
    assert not usable([*checks, Check("c", "missing", "gone", "get it")])
    assert as_json(checks)["checks"][0] == {"name": "a", "state": "ok", "found": "here", "mend": ""}


def test_the_user_is_told_about_root(run: Any) -> None:
    checks = {check["name"]: check for check in run("doctor", "--json").json["checks"]}
    assert ("root" in checks["user"]["found"]) == (os.geteuid() == 0 or "no root" in checks["user"]["found"])
