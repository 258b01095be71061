"""Who sends the demo's lines, and the cluster that takes agents."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from cluster.client import ApiClient
from cluster.data_directory import DataDirectory
from cluster.demo import DemoSite
from cluster.demo_agent import DemoAgent
from cluster.demo_scene import DemoCollector, demo_cluster, demo_sender
from serve.settings import Settings


@pytest.mark.parametrize(
    ("agent_url", "kind"), [("https://127.0.0.1:1", DemoAgent), ("", DemoCollector), ("http://10.0.0.1", DemoCollector)]
)
def test_a_whole_agent_sends_where_the_cluster_has_tls(tmp_path: Path, agent_url: str, kind: type) -> None:
    with ApiClient("http://127.0.0.1:9", "key") as client:
        site = DemoSite(tmp_path, tmp_path, "http://127.0.0.1:9", agent_url, "key", client)
        assert type(demo_sender(site)) is kind


def made(directory: DataDirectory, settings: Settings) -> Settings:
    """The settings with which the demo makes its cluster."""
    given: list[Settings] = []

    def factory(settings: Settings) -> Any:
        given.append(settings)
        return lambda: None

    demo_cluster(directory, settings, factory)()
    return given[0]


def test_a_cluster_of_the_demos_own_has_tls_by_an_authority_that_is_kept(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "data")
    directory.create()
    plain = Settings(data_dir=directory.path, tls_port=0)
    settings = made(directory, plain)
    assert settings.tls_port > 0
    assert settings.agent_address == f"https://127.0.0.1:{settings.tls_port}"
    assert stat.S_IMODE((directory.path / "tls" / "authority.key").stat().st_mode) == 0o600
    authority = (directory.path / "tls" / "authority.pem").read_bytes()
    made(directory, plain)
    assert (directory.path / "tls" / "authority.pem").read_bytes() == authority


def test_tls_that_somebody_has_set_up_is_left_as_it_is(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "data")
    directory.create()
    settings = Settings(data_dir=directory.path, tls_port=8443)
    assert made(directory, settings) is settings
    assert os.listdir(directory.path) == []
