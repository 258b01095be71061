"""What is shipped fits the programs: the unit, the image, the list of what must be installed, the quick start."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

from agent.installation.places import SETTINGS, STATE

ROOT = Path(__file__).resolve().parents[4]
GUARD = ROOT / "packaging" / "systemd" / "trustsoc-agent-guard"
IMPORTED = {"google": "protobuf", "opentelemetry": "opentelemetry-proto", "yaml": "pyyaml"}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_a_host_needs_what_the_agent_imports_and_nothing_else() -> None:
    found = set()
    for path in (ROOT / "agent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            found |= {name.partition(".")[0] for name in names}
    foreign = {IMPORTED.get(name, name) for name in found - set(sys.stdlib_module_names) - {"agent"}}
    # The listener is uvicorn's protocol over httptools, which uvicorn imports.
    assert {line.partition(">=")[0] for line in PROJECT["dependencies"]} == foreign | {"httptools"}


def test_what_a_host_installs_is_locked_and_the_same_as_on_the_server() -> None:
    def locked(name: str) -> set[str]:
        lines = (ROOT / "requirements" / name).read_text().splitlines()
        return {line.partition(" ")[0] for line in lines if "==" in line and not line.startswith("#")}

    names = {line.partition("==")[0] for line in locked("agent.txt")}
    assert names >= {line.partition(">=")[0] for line in PROJECT["dependencies"]}
    assert not names & {"ray", "asyncpg", "fastapi", "pydantic"}
    assert locked("agent.txt") <= locked("base.txt")


def test_a_command_is_chosen_before_anything_is_imported() -> None:
    code = "import sys, agent.cli; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    dear = {"yaml", "ssl", "cryptography", "google", "opentelemetry", "uvicorn", "asyncio", "http", "logging"}
    assert not dear & set(done.stdout.split())


def test_the_supervisor_stays_small() -> None:
    code = "import sys, agent.installation.supervisor; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"yaml", "ssl", "cryptography", "google", "asyncio", "http"} & set(done.stdout.split())


def test_the_unit_confines_the_agent_to_its_own_folder() -> None:
    lines = (ROOT / "packaging" / "systemd" / "trustsoc-agent.service").read_text().splitlines()
    stated = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    wanted = {
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "CapabilityBoundingSet": "",
        "User": "trustsoc-agent",
        "StateDirectory": STATE.name,
        "StateDirectoryMode": "0700",
        "ConfigurationDirectory": SETTINGS.name,
        # Programs that end by themselves after an upgrade are started again, unusable settings are not.
        "Restart": "always",
        "RestartPreventExitStatus": "2",
        "KillMode": "mixed",
    }
    assert wanted.items() <= stated.items()
    assert stated["ExecStartPre"].split()[0].endswith(f"/{GUARD.name}")
    assert os.access(GUARD, os.X_OK)
    # The forwarder may take 45 s and the controller 30 s to end.
    assert int(stated["TimeoutStopSec"]) > 45 + 30
    assert stated["ExecStart"].endswith("/bin/trustsoc-agent run")


def test_the_guide_names_every_command() -> None:
    guide = (ROOT / "docs" / "agent.md").read_text()
    for command in ("enroll", "run", "status", "doctor", "signing-key", "uninstall"):
        assert f"trustsoc-agent {command}" in guide, command
