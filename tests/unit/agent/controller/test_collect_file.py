"""COLLECT_FILE: only regular files below the named folders, whole, within the size, as they were measured."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.controller import collect_file
from agent.controller.collect_file import CollectFile, open_inside
from agent.controller.control_client import Unreachable
from agent.controller.executor import JobFailed, JobRejected
from agent.host_policy import CollectPolicy, HostPolicy
from tests.unit.agent.controller.control_server import whole_file
from tests.unit.agent.controller.running_job import RunningJob


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "allowed"
    (folder / "inner").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    return folder


def ran(
    root: Path,
    path: Path | str,
    post: Callable[..., dict[str, Any]] | None = None,
    *,
    most: int = 10_000_000,
    **changes: Any,
) -> tuple[Any, list[dict[str, Any]]]:
    sent: list[dict[str, Any]] = []

    def keep(_path: str, body: dict[str, Any], *, timeout_s: float = 0.0) -> dict[str, Any]:
        sent.append(body)
        return {}

    policy = HostPolicy(collect_file=CollectPolicy((str(root),), most))
    run = RunningJob("COLLECT_FILE", {"path": str(path)} | changes.pop("args", {}), policy, **changes)
    return CollectFile(post or keep, root / "own").run(run), sent


@pytest.mark.parametrize("size", [0, 1, 524_287, 524_288, 524_289, 1_500_000])
def test_a_file_arrives_whole(root: Path, size: int) -> None:
    data = os.urandom(size)
    (root / "inner" / "app.log").write_bytes(data)
    ending, sent = ran(root, root / "inner" / "app.log")
    assert ending.state == "succeeded"
    assert whole_file(sent) == data
    assert ending.data["size"] == size
    assert ending.data["digest"] == hashlib.sha256(data).hexdigest() == sent[0]["digest"]


def test_a_link_counts_as_what_it_points_to(root: Path, tmp_path: Path) -> None:
    (root / "app.log").write_text("log")
    (root / "latest").symlink_to("app.log")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to("..")
    (tmp_path / "entry").symlink_to(root)
    assert whole_file(ran(root, root / "latest")[1]) == b"log"
    assert whole_file(ran(root, tmp_path / "entry" / "app.log")[1]) == b"log"
    for path in (root / "out", root / "up" / "secret", f"{root}/../secret", tmp_path / "secret", f"{root}x/a", root):
        with pytest.raises(JobRejected) as caught:
            ran(root, path)
        assert caught.value.reason == "host_policy"


def test_the_agent_s_own_files_are_never_sent_whatever_the_policy_names(root: Path) -> None:
    (root / "own").mkdir()
    (root / "own" / "result.key").write_text("secret")
    (root / "key").symlink_to("own/result.key")
    for path in (root / "own" / "result.key", root / "key"):
        with pytest.raises(JobRejected, match="agent's own") as caught:
            ran(root, path)
        assert caught.value.reason == "host_policy"


def test_what_is_no_regular_file_of_one_name_is_refused(root: Path, tmp_path: Path) -> None:
    os.mkfifo(root / "pipe")
    os.link(tmp_path / "secret", root / "hard")
    for name in ("pipe", "hard", "inner"):
        with pytest.raises(JobRejected):
            ran(root, root / name)
    with pytest.raises(JobFailed) as caught:
        ran(root, root / "missing")
    assert caught.value.reason == "not_readable"


def test_a_link_that_is_put_in_place_after_the_check_is_not_followed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "inner" / "a").write_text("a")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a").write_text("secret")
    resolve = os.path.realpath

    def swapping(path: str) -> str:
        found = str(resolve(path))
        if path.endswith("/a"):
            (root / "inner").rename(root / "moved")
            (root / "inner").symlink_to(tmp_path / "elsewhere")
        return found

    monkeypatch.setattr(collect_file.os.path, "realpath", swapping)
    with pytest.raises(JobFailed):
        open_inside(str(root / "inner" / "a"), (str(root),), root / "own")


def test_size_is_bounded_by_policy_and_job(root: Path) -> None:
    (root / "a").write_bytes(b"x" * 100)
    for most, args in ((99, {}), (1000, {"most_bytes": 99})):
        with pytest.raises(JobRejected) as caught:
            ran(root, root / "a", most=most, args=args)
        assert caught.value.reason == "too_large"
    assert ran(root, root / "a", most=100)[0].state == "succeeded"


def test_a_file_that_changes_meanwhile_is_never_completed_and_one_that_grows_is_cut(root: Path) -> None:
    path = root / "a"
    path.write_bytes(b"x" * 1_200_000)
    sent: list[dict[str, Any]] = []

    def changing(_path: str, body: dict[str, Any], *, timeout_s: float = 0.0) -> dict[str, Any]:
        sent.append(body)
        with path.open("r+b") as stream:
            stream.seek(1_100_000)
            stream.write(b"y")
        return {}

    with pytest.raises(JobFailed) as caught:
        ran(root, path, changing)
    assert caught.value.reason == "changed"
    assert len(whole_file(sent)) < 1_200_000

    path.write_bytes(b"x" * 600_000)
    grown: list[dict[str, Any]] = []

    def growing(_path: str, body: dict[str, Any], *, timeout_s: float = 0.0) -> dict[str, Any]:
        grown.append(body)
        with path.open("ab") as stream:
            stream.write(b"more")
        return {}

    assert ran(root, path, growing)[0].state == "succeeded"
    assert whole_file(grown) == b"x" * 600_000


def test_a_dry_run_sends_nothing_and_nothing_is_allowed_without_roots(root: Path) -> None:
    (root / "a").write_bytes(b"x")
    ending, sent = ran(root, root / "a", dry_run=True)
    assert (ending.reason, sent) == ("dry_run", [])
    with pytest.raises(JobRejected):
        CollectFile(lambda *_, **__: {}, root / "own").run(
            RunningJob("COLLECT_FILE", {"path": str(root / "a")}, HostPolicy())
        )


def test_a_server_that_does_not_take_it_fails_the_job(root: Path) -> None:
    (root / "a").write_bytes(b"x")

    def away(*_: Any, **__: Any) -> dict[str, Any]:
        raise Unreachable("away")

    with pytest.raises(JobFailed) as caught:
        ran(root, root / "a", away)
    assert caught.value.reason == "not_sent"
