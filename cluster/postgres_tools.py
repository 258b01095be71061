"""PostgreSQL's client programs, pg_dump and pg_restore: where they are, and running them with no password in sight."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from cluster.postgres_binaries import wheel_root
from cluster.unprivileged import plain_environment

_MESSAGE_CHARACTERS = 2000


class PostgresToolError(Exception):
    """A client program failed; the message has the end of what it said."""


@dataclass(frozen=True, slots=True)
class PostgresTools:
    """The folder of the programs. None of them needs to run as the server's user."""

    folder: Path

    @classmethod
    def of_the_wheel(cls) -> PostgresTools:
        """Those that come with the embedded PostgreSQL. Raises PostgresSetupError."""
        return cls(wheel_root() / "pginstall" / "bin")

    def run(self, program: str, dsn: str, arguments: Sequence[str]) -> None:
        """Runs a program against a database to its end. Raises PostgresToolError.

        The password travels in the environment: a command line can be read by every user of the machine.
        """
        address, password = without_password(dsn)
        environment = plain_environment() | ({"PGPASSWORD": password} if password else {})
        command = [str(self.folder / program), f"--dbname={address}", "--no-password", *arguments]
        try:
            done = subprocess.run(command, cwd="/", env=environment, capture_output=True, check=False)
        except OSError as error:
            raise PostgresToolError(f"{self.folder / program} cannot be run: {error.strerror}") from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()[-_MESSAGE_CHARACTERS:]
            raise PostgresToolError(f"{program} failed: {said or f'exit code {done.returncode}'}")


def without_password(dsn: str) -> tuple[str, str]:
    """A connection URI without its password, and the password (empty when it has none)."""
    parts = urlsplit(dsn)
    password = unquote(parts.password) if parts.password else ""
    before, at, host = parts.netloc.rpartition("@")
    user = before.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{user}{at}{host}")), password
