"""The settings that an enrolment writes for the host's owner to change; what is there already is left as it is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.controller.durable import write_whole
from agent.controller.identity import AgentIdentity
from agent.installation.places import InstallationError, Places

if TYPE_CHECKING:
    from agent.collector import HostProfile

PORT: Final = 4319

_POLICY: Final = """\
# What the server may ask of this host. Only who owns the host writes this file; it is read anew for every job.
# Without a type in `jobs` the server cannot have it done, whoever signs it. docs/agent.md names all settings.
jobs:
  PING:
  RULES_RELOAD:
  CERT_ROTATE:
  # UPDATE_CONFIG: 6/hour
  # COLLECT_FILE: 20/hour
  # UPGRADE: 3/hour
  # BLOCK_IP: 60/hour
# block_ip: {mode: dry_run, never: [10.0.0.0/8]}
# collect_file: {roots: [/var/log], most_bytes: 16777216}
# upgrade: {key: BASE64 OF THE PUBLIC KEY}
# What a configuration that the server sends may name.
update_config:
  destinations: [DESTINATION]
  paths: [/var/log]
  storage: [STORAGE]
"""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the owner chose at enrolment. `tail` are files or globs; without any there is no collector of ours."""

    port: int = PORT
    tail: tuple[str, ...] = ()
    binary: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def write_settings(places: Places, identity: AgentIdentity, choices: Choices) -> tuple[list[Path], list[Path]]:
    """The files that were made, and those that were there and are kept. Raises OSError."""
    texts = {
        places.forwarder: _yaml(
            "The forwarder: takes OTLP on loopback, keeps it, sends it on.", _forwarder(places, identity, choices)
        ),
        places.controller: _yaml(
            "The controller: carries out signed jobs, within policy.yml.", _controller(places, choices)
        ),
        places.policy: _policy(places, choices),
    }
    if choices.tail:
        texts[places.collector] = _collector(places, choices)
    made, kept = [], []
    for path, text in texts.items():
        if path.exists():
            kept.append(path)
        else:
            write_whole(path, text.encode(), 0o644)
            made.append(path)
    return made, kept


def _forwarder(places: Places, identity: AgentIdentity, choices: Choices) -> dict[str, Any]:
    tls = places.state / "tls"
    stated: dict[str, Any] = {
        "server": {
            "url": identity.ingest,
            "authority": str(tls / "authority.pem"),
            # The link moves when the certificate is rotated.
            "certificate": str(tls / "current" / "certificate.pem"),
            "key": str(tls / "current" / "key.pem"),
            "client_id": str(identity.tenant),
            "signing_key": str(places.state / "signing_key.json"),
        },
        "listen": {"token": str(places.token), "address": "127.0.0.1", "port": choices.port},
        "spool": {"folder": str(places.spool)},
    }
    if places.masking_key.exists():
        stated["masking"] = {"key": str(places.masking_key)}
    return stated


def _controller(places: Places, choices: Choices) -> dict[str, Any]:
    stated: dict[str, Any] = {
        "folder": str(places.state),
        "policy": str(places.policy),
        "forwarder_status": f"http://127.0.0.1:{choices.port}/status",
        "labels": dict(choices.labels),
        "rules": {"pid_files": [str(places.forwarder_pid)]},
        "certificate": {"pid_files": [str(places.forwarder_pid)]},
    }
    if choices.tail or choices.binary:
        stated["collector"] = {
            "config": str(places.collector),
            "environment_file": str(places.collector_environment),
        } | ({"binary": choices.binary} if choices.binary else {})
    return stated


def _policy(places: Places, choices: Choices) -> str:
    import json

    stated = {"DESTINATION": f"http://127.0.0.1:{choices.port}", "STORAGE": str(places.state / "collector")}
    text = _POLICY
    for name, value in stated.items():
        text = text.replace(name, json.dumps(value))
    return text


def check_choices(places: Places, choices: Choices) -> None:
    """Raises InstallationError for what no collector could be set up with."""
    if not 1 <= choices.port <= 65_535:
        raise InstallationError("--port must be 1 to 65535")
    if choices.tail:
        from agent.collector import CollectorError, find_binary
        from agent.collector.host_config import ProfileError, render_host_profile

        try:
            if not choices.binary:
                find_binary()
        except CollectorError as error:
            raise InstallationError("--tail needs a collector's program: name it by --collector") from error

        try:
            render_host_profile(_profile(places, choices))
        except ProfileError as error:
            raise InstallationError(f"--tail: {error}") from error


def program_of(text: str) -> str:
    """The absolute path of a program, named by path or found by PATH; empty for none. Raises InstallationError."""
    if not text:
        return ""
    found = shutil.which(text)
    if found is None:
        raise InstallationError(f"--collector {text}: there is no program")
    return str(Path(found).absolute())


def _collector(places: Places, choices: Choices) -> str:
    """The configuration to begin with: offsets and queue on disk where the program can do that."""
    from agent.collector import CollectorProfile, render_profile
    from agent.collector.host_config import render_host_profile

    profile = _profile(places, choices)
    if choices.binary:
        return render_host_profile(profile)
    return render_profile(CollectorProfile(choices.tail, profile.endpoint, profile.host_name))


def _profile(places: Places, choices: Choices) -> HostProfile:
    import socket

    from agent.collector import FileSource, HostProfile

    return HostProfile(
        socket.gethostname(),
        (FileSource("files", choices.tail),),
        endpoint=f"http://127.0.0.1:{choices.port}",
        # A queue on disk would hold in clear what the forwarder masks before its own disk.
        queue="none" if places.masking_key.exists() else "disk",
        storage=str(places.state / "collector"),
    )


def _yaml(heading: str, stated: dict[str, Any]) -> str:
    import yaml

    return f"# {heading}\n{yaml.safe_dump(stated, sort_keys=False)}"
