"""Job keys: files outside the database, the newest signs, two are handed out, and each new one is vouched for."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.jobs import JobRefused, public_key, verify_keys
from serve.control.job_keys import (
    HeldJobKeys,
    JobKeyError,
    JobKeyRing,
    add_job_key,
    ensure_job_key,
    load_job_keys,
)
from serve.errors import WireError


def pinned(ring: JobKeyRing) -> dict[str, object]:
    return {name: public_key(raw) for name, raw in ring.pinned.items()}


def test_the_newest_signs_and_the_two_newest_are_handed_out(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        assert add_job_key(tmp_path) == number
    ring = load_job_keys(tmp_path)
    assert [key.number for key in ring.keys] == [3, 2]
    assert ring.signer.number == 3
    assert [item["key_id"] for item in ring.listed()] == [key.key_id for key in ring.keys]
    assert len({key.key_id for key in ring.keys}) == 2
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_agent_that_holds_any_earlier_pair_follows_one_rotation(tmp_path: Path) -> None:
    add_job_key(tmp_path)
    first = load_job_keys(tmp_path)
    add_job_key(tmp_path)
    second = load_job_keys(tmp_path)
    said = second.statement()
    assert set(verify_keys(said["statement"].encode(), said["signature"], pinned(first), 1).keys) == set(second.pinned)
    add_job_key(tmp_path)
    third = load_job_keys(tmp_path)
    said = third.statement()
    assert verify_keys(said["statement"].encode(), said["signature"], pinned(second), 2).serial == 3
    # Whoever slept through two rotations holds no key that vouches for the new ones.
    with pytest.raises(JobRefused):
        verify_keys(said["statement"].encode(), said["signature"], pinned(first), 1)


def test_several_replicas_make_one_first_key(tmp_path: Path) -> None:
    folder = tmp_path / "job-keys"
    with ThreadPoolExecutor(8) as replicas:
        list(replicas.map(lambda _: ensure_job_key(folder), range(16)))
    assert [path.name for path in folder.iterdir()] == ["1.key"]
    before = load_job_keys(folder).pinned
    ensure_job_key(folder)
    assert load_job_keys(folder).pinned == before


def test_keys_that_are_not_used(tmp_path: Path) -> None:
    with pytest.raises(JobKeyError, match="holds no job key"):
        load_job_keys(tmp_path)
    with pytest.raises(JobKeyError, match="cannot read"):
        load_job_keys(tmp_path / "nowhere")
    add_job_key(tmp_path)
    path = tmp_path / "1.key"
    path.chmod(0o604)
    with pytest.raises(JobKeyError, match="chmod 600"):
        load_job_keys(tmp_path)
    path.chmod(0o600)
    path.write_text("abc\n")
    with pytest.raises(JobKeyError, match="damaged"):
        load_job_keys(tmp_path)


def test_a_replica_takes_a_new_key_over_and_says_503_without_any(tmp_path: Path) -> None:
    now = 0.0
    held = HeldJobKeys(tmp_path, lambda: now)
    with capture_logs() as logs, pytest.raises(WireError) as refused:
        held.ring()
    assert (refused.value.status, str(tmp_path) in refused.value.detail) == (503, False)
    assert str(tmp_path) in str(logs)
    add_job_key(tmp_path)
    assert held.ring().signer.number == 1
    said = held.statement()
    add_job_key(tmp_path)
    assert held.ring().signer.number == 1
    now = 6.0
    assert held.ring().signer.number == 2
    assert held.statement() != said
    assert "JobKey(" in repr(held.ring().signer)
    assert (tmp_path / "2.key").read_text().strip() not in repr(held.ring())
