"""UPGRADE: only what the publisher signed, unpacked within its folder, sound by its own word, alive, or taken back."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
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
from agent.controller.sign_package import main as sign_main
from agent.jobs import Job, Result
from tests.unit.agent.controller.conftest import OPEN_POLICY, Started
from tests.unit.agent.controller.control_server import ControlServer, raw
from tests.unit.agent.controller.test_crashes import program

GUARD = Path(__file__).resolve().parents[4] / "packaging" / "systemd" / "trustsoc-agent-guard"
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


@pytest.fixture
def own(upgrade: UpgradeSettings) -> UpgradeSettings:
    """For an upgrade of the agent itself."""
    return replace(upgrade, restart=(), alive=(), end_controller=True)


def trial_of(server: ControlServer, start: Started, place: Path, own: UpgradeSettings, **changes: Any) -> Job:
    """An upgrade to 1.1.0 up to where the agent has ended for the new version to be started."""
    job = ordered(server, "1.1.0", package("1.1.0"))
    controller = start(upgrade=own, **changes)
    assert controller.stopping.wait(30)
    while controller._journal._lock >= 0:
        os.sched_yield()
    assert in_use(place) == "versions/1.1.0"
    assert not server.finals(job)
    return job


def guarded(place: Path, times: int = 1) -> str:
    """What runs before every start, so many times; returns what it said."""
    said = ""
    for _ in range(times):
        done = subprocess.run([str(GUARD), str(place)], capture_output=True, text=True, check=False)
        said += f"{done.returncode} {done.stderr}"
    return said


def test_the_agent_s_own_new_version_ends_the_job_once_it_is_well(
    server: ControlServer, start: Started, place: Path, own: UpgradeSettings
) -> None:
    job = trial_of(server, start, place, own)
    assert guarded(place) == "0 "
    controller = start(upgrade=own)
    result = server.wait_final(job)
    assert (result.state, result.reason) == ("succeeded", "")
    assert result.data == {"running": "1.1.0", "attempted": "1.1.0"}
    assert not controller.stopping.is_set()
    assert guarded(place, 5) == "0 " * 5
    assert in_use(place) == "versions/1.1.0"


def test_a_new_version_whose_forwarder_is_not_well_takes_itself_back(
    server: ControlServer, start: Started, place: Path, own: UpgradeSettings
) -> None:
    job = trial_of(server, start, place, own)
    guarded(place)
    controller = start(upgrade=own, forwarder_status="http://127.0.0.1:1/status")
    result = server.wait_final(job)
    assert (result.state, result.reason) == ("failed", "unhealthy")
    assert "the forwarder's status cannot be read" in result.detail
    assert result.data == {"running": "1.0.0", "attempted": "1.1.0"}
    assert controller.stopping.wait(10)
    assert in_use(place) == "versions/1.0.0"
    assert guarded(place, 5) == "0 " * 5


def test_trouble_that_was_there_before_is_not_held_against_the_new_version(
    server: ControlServer, start: Started, place: Path, own: UpgradeSettings
) -> None:
    away = "http://127.0.0.1:1/status"
    job = trial_of(server, start, place, own, forwarder_status=away)
    start(upgrade=own, forwarder_status=away)
    assert server.wait_final(job).state == "succeeded"


def test_a_new_version_that_cannot_even_start_is_taken_back_by_the_guard_and_the_old_one_says_so(
    server: ControlServer, start: Started, place: Path, own: UpgradeSettings
) -> None:
    job = trial_of(server, start, place, own)
    assert guarded(place, 3) == "0 " * 3
    assert in_use(place) == "versions/1.1.0"
    assert "1.0.0 is used again" in guarded(place)
    assert in_use(place) == "versions/1.0.0"
    start(upgrade=own)
    result = server.wait_final(job)
    assert (result.state, result.reason) == ("failed", "unhealthy")
    assert "did not stay up" in result.detail
    assert {path.name for path in (place / "versions").iterdir()} == {"1.0.0"}
    ping = server.job("PING")
    server.give(ping)
    assert server.wait_final(ping).state == "succeeded"


def test_an_agent_that_is_stopped_during_the_trial_goes_on_with_it(
    server: ControlServer, start: Started, place: Path, own: UpgradeSettings
) -> None:
    job = trial_of(server, start, place, own)
    controller = start(upgrade=replace(own, health_s=600.0))
    with server.changed:
        assert not server.changed.wait_for(lambda: bool(server.finals(job)), 1.0)
    controller.stop()
    while controller._journal._lock >= 0:
        os.sched_yield()
    assert not server.finals(job)
    start(upgrade=own)
    assert server.wait_final(job).state == "succeeded"


@pytest.mark.parametrize(
    "text", ["", "1.1.0", "1.1.0 ../../etc 3", "1.1.0 /etc 3", "a b c", "1.1.0 $(id) 3", "1.1.0 1.0.0"]
)
def test_a_mark_that_makes_no_sense_moves_nothing(place: Path, text: str) -> None:
    (place / "trial").write_text(text + "\n")
    guarded(place, 5)
    assert in_use(place) == "versions/1.0.0"
    assert guarded(place).startswith("1 ")


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


def test_what_the_publisher_s_command_signs_is_what_the_host_of_its_key_installs(
    server: ControlServer,
    start: Started,
    settings: ControllerSettings,
    place: Path,
    upgrade: UpgradeSettings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key, path = tmp_path / "publisher.pem", tmp_path / "agent.tar.gz"
    path.write_bytes(package("1.1.0"))
    assert sign_main(["key", str(key)]) == 0
    assert key.stat().st_mode & 0o077 == 0
    Path(settings.policy).write_text(OPEN_POLICY + capsys.readouterr().out.splitlines()[1] + "\n")
    assert sign_main(["key", str(key)]) == 2, "a key that is there is not overwritten"
    assert sign_main(["sign", str(key), "1.1", str(tmp_path / "missing")]) == 2
    capsys.readouterr()
    assert sign_main(["sign", str(key), "1.1.0", str(path)]) == 0
    words = dict(word.split("=", 1) for word in capsys.readouterr().out.split() if "=" in word)
    server.packages[words["digest"]] = path.read_bytes()
    job = server.job("UPGRADE", words | {"size": int(words["size"])})
    server.give(job)
    start(upgrade=upgrade)
    assert server.wait_final(job).state == "succeeded"
    assert in_use(place) == "versions/1.1.0"


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


def _restarted_until_told(server: ControlServer, settings: Path, job: Job) -> Result:
    """What starts the agent starts it again whenever it has ended by itself."""
    deadline = time.monotonic() + 60
    while not server.finals(job):
        with program(settings) as started:
            while started.poll() is None and not server.finals(job):
                assert time.monotonic() < deadline
                time.sleep(0.02)
    return server.finals(job)[-1]


@pytest.mark.parametrize("ends", [False, True], ids=["of another", "of its own"])
@pytest.mark.parametrize("step", range(1, 46, 6))
def test_killed_at_any_step_a_whole_version_is_in_use(
    server: ControlServer,
    settings: ControllerSettings,
    tmp_path: Path,
    place: Path,
    upgrade: UpgradeSettings,
    step: int,
    ends: bool,
) -> None:
    value = asdict(replace(settings, upgrade=replace(upgrade, end_controller=ends)))
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
    result = _restarted_until_told(server, path, job)
    assert result.reason in {"", "interrupted", "unhealthy"}
    expected = "1.1.0" if result.state == "succeeded" else "1.0.0"
    assert in_use(place) == f"versions/{expected}"
    assert os.access(place / "current" / "bin" / "alive", os.X_OK)
    if result.state != "succeeded" and not ends:
        assert {entry.name for entry in (place / "versions").iterdir()} == {"1.0.0"}
