"""UPGRADE: only what the publisher signed, unpacked within its folder, sound by its own word, alive, or taken back."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.controller.package import BadPackage, is_newer, sign_package, unpack
from agent.controller.settings import ControllerSettings, UpgradeSettings
from agent.jobs import Job
from tests.unit.agent.controller.conftest import OPEN_POLICY, Started
from tests.unit.agent.controller.control_server import ControlServer, raw
from tests.unit.agent.controller.test_crashes import program

PUBLISHER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def package(version: str, *, sound: bool = True, lives: bool = True) -> bytes:
    """An archive whose check and life are as said."""
    files = {
        "bin/check": (f"#!/bin/sh\necho checked {version}\nexit {0 if sound else 3}\n", 0o755),
        "bin/alive": (f"#!/bin/sh\nexit {0 if lives else 1}\n", 0o755),
        "VERSION": (version, 0o644),
    }
    return archive({name: (text.encode(), mode) for name, (text, mode) in files.items()})


def archive(files: dict[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, (data, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def place(tmp_path: Path, settings: ControllerSettings) -> Path:
    import base64

    key = base64.b64encode(raw(PUBLISHER)).decode()
    Path(settings.policy).write_text(OPEN_POLICY + f"upgrade: {{key: {key}, most_bytes: 100000}}\n")
    folder = tmp_path / "opt"
    (folder / "versions" / "1.0.0" / "bin").mkdir(parents=True)
    alive = folder / "versions" / "1.0.0" / "bin" / "alive"
    alive.write_text("#!/bin/sh\nexit 0\n")
    alive.chmod(0o755)
    (folder / "current").symlink_to("versions/1.0.0")
    return folder


@pytest.fixture
def upgrade(place: Path) -> UpgradeSettings:
    restarted = ("/bin/sh", "-c", f"readlink {place}/current >> {place}/restarts")
    alive = (f"{place}/current/bin/alive",)
    return UpgradeSettings(str(place), ("bin/check",), restarted, alive, health_s=0.5)


def ordered(server: ControlServer, version: str, data: bytes, **changes: Any) -> Job:
    digest = hashlib.sha256(data).hexdigest()
    server.packages[digest] = data
    signature = sign_package(PUBLISHER, version, digest, len(data))
    args = {"version": version, "digest": digest, "size": len(data), "signature": signature}
    job = server.job("UPGRADE", args | changes.pop("args", {}), **changes)
    server.give(job)
    return job


def in_use(place: Path) -> str:
    return os.readlink(place / "current")


def test_a_signed_sound_and_living_version_is_used(
    server: ControlServer, start: Started, place: Path, upgrade: UpgradeSettings
) -> None:
    start(upgrade=upgrade)
    result = server.wait_final(ordered(server, "1.1.0", package("1.1.0")))
    assert (result.state, result.reason) == ("succeeded", "")
    assert result.data == {"running": "1.1.0", "attempted": "1.1.0"}
    assert in_use(place) == "versions/1.1.0"
    assert (place / "current" / "VERSION").read_text() == "1.1.0"
    assert (place / "restarts").read_text().split() == ["versions/1.1.0"]
    assert {path.name for path in (place / "versions").iterdir()} == {"1.0.0", "1.1.0"}


def test_the_controller_may_end_after_it_has_told_the_result_for_its_supervisor_to_start_the_new_one(
    server: ControlServer, start: Started, upgrade: UpgradeSettings
) -> None:
    controller = start(upgrade=replace(upgrade, end_controller=True))
    failing = ordered(server, "1.0.9", package("1.0.9", lives=False))
    assert server.wait_final(failing).state == "failed"
    assert not controller.stopping.is_set()
    assert server.wait_final(ordered(server, "1.1.0", package("1.1.0"))).state == "succeeded"
    assert controller.stopping.wait(10)


def test_one_that_does_not_live_is_taken_back(
    server: ControlServer, start: Started, place: Path, upgrade: UpgradeSettings
) -> None:
    start(upgrade=upgrade)
    result = server.wait_final(ordered(server, "1.1.0", package("1.1.0", lives=False)))
    assert (result.state, result.reason) == ("failed", "unhealthy")
    assert result.data == {"running": "1.0.0", "attempted": "1.1.0"}
    assert in_use(place) == "versions/1.0.0"
    assert (place / "restarts").read_text().split() == ["versions/1.1.0", "versions/1.0.0"]
    assert {path.name for path in (place / "versions").iterdir()} == {"1.0.0"}


def test_one_that_is_not_sound_by_its_own_word_is_never_used(
    server: ControlServer, start: Started, place: Path, upgrade: UpgradeSettings
) -> None:
    start(upgrade=upgrade)
    result = server.wait_final(ordered(server, "1.1.0", package("1.1.0", sound=False)))
    assert (result.state, result.reason) == ("failed", "unsound")
    assert "checked 1.1.0" in result.detail
    assert in_use(place) == "versions/1.0.0"
    assert not (place / "restarts").exists()


REJECTED: dict[str, tuple[str, dict[str, Any]]] = {
    "another version than was signed": ("bad_package", {"version": "1.2.0"}),
    "another digest than was signed": ("bad_package", {"digest": "0" * 64}),
    "another size than was signed": ("bad_package", {"size": 7}),
    "no signature": ("bad_package", {"signature": "x"}),
    "a path for a version": ("bad_arguments", {"version": "../../etc"}),
    "larger than the policy allows": ("too_large", {"size": 100_001}),
    "an argument that nobody reads": ("bad_arguments", {"key": "mine"}),
}


@pytest.mark.parametrize(("reason", "args"), REJECTED.values(), ids=REJECTED)
def test_what_was_not_signed_so_is_rejected(
    server: ControlServer, start: Started, place: Path, upgrade: UpgradeSettings, reason: str, args: dict[str, Any]
) -> None:
    start(upgrade=upgrade)
    result = server.wait_final(ordered(server, "1.1.0", package("1.1.0"), args=args))
    assert (result.state, result.reason) == ("rejected", reason)
    assert in_use(place) == "versions/1.0.0"


def test_an_older_version_a_swapped_package_and_a_host_without_a_key(
    server: ControlServer, start: Started, settings: ControllerSettings, place: Path, upgrade: UpgradeSettings
) -> None:
    start(upgrade=upgrade)
    assert server.wait_final(ordered(server, "0.9.9", package("0.9.9"))).reason == "older_version"
    dry = server.wait_final(ordered(server, "1.0.1", package("1.0.1"), dry_run=True))
    assert (dry.reason, in_use(place)) == ("dry_run", "versions/1.0.0")
    swapped = ordered(server, "1.1.0", package("1.1.0"))
    good = server.packages[swapped.args["digest"]]
    server.packages[swapped.args["digest"]] = good[:-1] + b"x"
    assert server.wait_final(swapped).reason == "bad_package"
    Path(settings.policy).write_text(OPEN_POLICY)
    no_key = ordered(server, "1.2.0", package("1.2.0"))
    assert server.wait_final(no_key).reason in {"host_policy", "over_rate"}
    assert in_use(place) == "versions/1.0.0"


def hostile(kind: str, outside: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("a")
        if kind == "parent":
            entry.name = "../outside"
        elif kind == "absolute":
            entry.name = str(outside)
        elif kind == "link":
            entry.type, entry.linkname = tarfile.SYMTYPE, str(outside)
        elif kind == "hard link":
            entry.type, entry.linkname = tarfile.LNKTYPE, "../outside"
        elif kind == "device":
            entry.type = tarfile.CHRTYPE
        elif kind == "bomb":
            entry.size = 5000
            tar.addfile(entry, io.BytesIO(bytes(5000)))
            return buffer.getvalue()
        tar.addfile(entry, io.BytesIO(b""))
        if kind == "link":
            inner = tarfile.TarInfo("a/b")
            tar.addfile(inner, io.BytesIO(b""))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["parent", "link", "hard link", "device", "bomb", "cut", "nonsense"])
def test_nothing_leaves_the_folder_and_nothing_is_left_of_a_bad_archive(tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    data = package("1.0.0")[:100] if kind == "cut" else b"x" * 600 if kind == "nonsense" else hostile(kind, outside)
    with pytest.raises(BadPackage):
        unpack(io.BytesIO(data), tmp_path / "inside", 4000)
    assert list(tmp_path.iterdir()) == []


def test_an_absolute_name_lands_inside(tmp_path: Path) -> None:
    unpack(io.BytesIO(hostile("absolute", Path("/outside/x"))), tmp_path / "inside", 4000)
    assert not Path("/outside").exists()
    assert (tmp_path / "inside" / "outside" / "x").exists()


def test_versions_are_compared_by_their_numbers() -> None:
    assert is_newer("1.10.0", "1.9.9")
    assert is_newer("1.0.1", "1.0")
    assert not is_newer("1.0.0", "1.0")
    assert not is_newer("1.9", "1.10")
    assert is_newer("0.1", "")


@pytest.mark.parametrize("step", range(1, 40, 3))
def test_killed_at_any_step_a_whole_version_is_in_use(
    server: ControlServer,
    settings: ControllerSettings,
    tmp_path: Path,
    place: Path,
    upgrade: UpgradeSettings,
    step: int,
) -> None:
    value = asdict(replace(settings, upgrade=upgrade))
    for section in ("collector", "rules", "certificate"):
        del value[section]
    value["upgrade"] = {
        name: list(item) if isinstance(item, tuple) else item for name, item in value["upgrade"].items()
    }
    path = tmp_path / "controller.yml"
    path.write_text(yaml.safe_dump(value))
    job = ordered(server, "1.1.0", package("1.1.0"))
    item = dict(server.items[0])
    with program(path, step) as killed:
        deadline = time.monotonic() + 30
        while killed.poll() is None and not server.finals(job) and time.monotonic() < deadline:
            time.sleep(0.02)
    if not server.finals(job):
        server.items = [item | {"attempt": 2, "lease": "99999999-2222-4333-8444-555555555555"}]
    with program(path):
        result = server.wait_final(job)
    assert result.reason in {"", "interrupted"}
    expected = "1.1.0" if result.state == "succeeded" else "1.0.0"
    assert in_use(place) == f"versions/{expected}"
    assert os.access(place / "current" / "bin" / "alive", os.X_OK)
    if result.state != "succeeded":
        assert {entry.name for entry in (place / "versions").iterdir()} == {"1.0.0"}
