"""The host's policy: the owner's word, read strictly, and nothing is allowed by mistake."""

from __future__ import annotations

import base64
import os
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.host_policy import HostPolicy, HostPolicyError, Rate, parse_host_policy, read_host_policy

KEY = base64.b64encode(bytes(32)).decode()


def test_without_a_file_little_is_allowed_and_addresses_are_not_blocked(tmp_path: Path) -> None:
    policy = read_host_policy(tmp_path / "policy.yml")
    assert set(policy.jobs) == {"PING", "RULES_RELOAD", "CERT_ROTATE", "BLOCK_IP"}
    assert policy.block_ip.mode == "dry_run"
    assert policy.collect_file.roots == ()
    assert policy.upgrade.key is None


def test_all_of_it_can_be_said() -> None:
    policy = parse_host_policy(
        f"""
        jobs: {{PING: 5/minute, COLLECT_FILE: , UPGRADE: 1/day}}
        collect_file: {{roots: [/var/log, /srv/www], most_bytes: 1000}}
        block_ip: {{mode: enforce, never: [10.0.0.0/8, "2001:db8::/32"], most_seconds: 60, most_addresses: 5}}
        update_config:
          destinations: ["https://soc.example:4318"]
          paths: [/var/log]
          receivers: [filelog]
          environment: [KEY]
        upgrade: {{key: {KEY}, allow_older: true}}
        """
    )
    assert policy.jobs["PING"] == Rate(5, 60)
    assert policy.jobs["COLLECT_FILE"].count > 0
    assert "BLOCK_IP" not in policy.jobs
    assert policy.collect_file.roots == ("/var/log", "/srv/www")
    assert policy.block_ip.never == (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))
    assert policy.update_config.receivers == ("filelog",)
    assert policy.upgrade.key == bytes(32)


@pytest.mark.parametrize(
    "text",
    [
        "job: {}",
        "jobs: [PING]",
        "jobs: {PONG: }",
        "jobs: {PING: 0/hour}",
        "jobs: {PING: 5}",
        "jobs: {PING: often}",
        "collect_file: {roots: /var/log}",
        "collect_file: {roots: [/]}",
        "collect_file: {roots: [/var/../etc]}",
        "collect_file: {roots: [/var/log/]}",
        "collect_file: {roots: [var]}",
        "collect_file: {most_bytes: 0}",
        "collect_file: {most_bytes: true}",
        "block_ip: {mode: on}",
        "block_ip: {never: [10.0.0.1/8]}",
        "block_ip: {never: [host]}",
        "update_config: {destination: []}",
        "upgrade: {key: abc}",
        "upgrade: {key: YWJj}",
        "upgrade: {allow_older: 1}",
        "- a",
        "a: [",
        "!!python/object/apply:os.system [id]",
    ],
)
def test_what_is_not_understood_allows_nothing(text: str) -> None:
    with pytest.raises(HostPolicyError):
        parse_host_policy(text)


def test_an_empty_file_is_the_default() -> None:
    assert parse_host_policy("") == HostPolicy()


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_not_believed(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "policy.yml"
    path.write_text("")
    path.chmod(0o644)
    assert read_host_policy(path) == HostPolicy()
    path.chmod(mode)
    with pytest.raises(HostPolicyError, match="chmod"):
        read_host_policy(path)


def test_a_folder_that_others_can_write_a_link_or_a_pipe_is_not_believed(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    path = folder / "policy.yml"
    path.write_text("")
    folder.chmod(0o777)
    with pytest.raises(HostPolicyError, match="chmod"):
        read_host_policy(path)
    folder.chmod(0o755)
    (folder / "link.yml").symlink_to(path)
    os.mkfifo(folder / "pipe.yml", 0o600)
    for name in ("link.yml", "pipe.yml"):
        with pytest.raises(HostPolicyError):
            read_host_policy(folder / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "policy.yml"
    path.write_text("")
    os.chown(path, 12_345, 12_345)
    with pytest.raises(HostPolicyError, match="must belong to"):
        read_host_policy(path)


@given(st.integers(1, 20), st.integers(1, 3600), st.lists(st.integers(0, 10_000_000), max_size=60))
def test_no_more_than_twice_the_rate_starts_within_its_time(count: int, seconds: int, times: list[int]) -> None:
    rate = Rate(count, seconds)
    starts: list[int] = []
    for at in sorted(times):
        if rate.allows(starts, at):
            starts.append(at)
    for begin in starts:
        within = [at for at in starts if begin <= at < begin + seconds * 1000]
        assert len(within) <= 2 * count
    if times:
        assert starts, "the first is always allowed"


def test_a_bucket_fills_again_and_a_clock_that_went_back_fills_nothing() -> None:
    rate = Rate(2, 10)
    assert rate.allows([0], 0)
    assert not rate.allows([0, 0], 4999)
    assert rate.allows([0, 0], 5000)
    assert not rate.allows([5000, 5000], 0)
