"""`trustsoc-agent enroll`: an identity, a local token and the settings to begin with."""

from __future__ import annotations

import getpass
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.controller.assembly import own_version
from agent.controller.durable import write_whole
from agent.controller.enrol import EnrolmentError, enrol
from agent.controller.identity import AgentIdentity, IdentityError, IdentityFolder
from agent.installation.account import Account, account_of, acting_as, provide_folders, unreadable_programs
from agent.installation.places import AgentBusy, InstallationError, Places, is_running, provide_token
from agent.installation.settings_files import Choices, check_choices, write_settings

TOKEN_VARIABLE: Final = "TRUSTSOC_ENROL_TOKEN"  # noqa: S105  # the name of a variable
SECRET_VARIABLE: Final = "TRUSTSOC_SIGNING_SECRET"  # noqa: S105  # the same
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Enrolling:
    """Who enrols where. `user` is the account that the agent will run as, empty: see account_of."""

    server: str
    authority: Path
    token: str
    agent: str
    user: str = ""
    choices: Choices = field(default_factory=Choices)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What came of it: the settings that were made, and those of before that were left."""

    identity: AgentIdentity
    made: tuple[Path, ...]
    kept: tuple[Path, ...]


def read_token(source: str) -> str:
    """The enrolment token: from a file, from standard input (`-`), from the environment, or asked for.

    Raises InstallationError.
    """
    return _first_word(source, TOKEN_VARIABLE, "enrolment token", "--token-file", "trustsoc agent token")


def read_secret(source: str) -> str:
    """The secret of a signing key, from where a token may come. Raises InstallationError."""
    return _first_word(source, SECRET_VARIABLE, "secret", "--secret-file", "trustsoc signing-key rotate")


def _first_word(source: str, variable: str, what: str, option: str, command: str) -> str:
    """It is no argument of a command, for all users of the host can read those."""
    if source == "-":
        text = sys.stdin.readline()
    elif source:
        try:
            text = Path(source).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise InstallationError(f"{source} cannot be read: {error}") from error
    elif variable in os.environ:
        text = os.environ[variable]
    elif sys.stdin.isatty():
        text = getpass.getpass(f"The {what} (`{command}`): ")
    else:
        raise InstallationError(f"no {what}: give {option} or {variable}")
    if not text.strip():
        raise InstallationError(f"the {what} is empty: `{command}` on the server makes one")
    # The server's commands write a sentence below it.
    return text.split()[0]


def enrol_host(places: Places, wanted: Enrolling) -> Enrolled:
    """Enrols this host and writes what it needs to run. Raises InstallationError; then there is no identity."""
    if not _NAME.fullmatch(wanted.agent):
        raise InstallationError(f"{wanted.agent!r} cannot be an agent's name: give --name, 1 to 63 of a-z 0-9 . _ -")
    check_choices(places, wanted.choices)
    account = account_of(wanted.user)
    closed = unreadable_programs(account)
    if account is not None and closed:
        raise InstallationError(f"{account.name} cannot read the agent's programs: {closed}: install with umask 022")
    try:
        if is_running(places):
            raise AgentBusy(f"an agent runs on {places.state}: stop it first")
        # The account need not be able to read where the owner keeps it.
        authority = wanted.authority.read_bytes()
        provide_folders(places.settings, places.state, account)
        write_whole(places.authority, authority, 0o644)
        identity = _enrolled(places, wanted, account)
        made, kept = write_settings(places, identity, wanted.choices)
    except (EnrolmentError, IdentityError) as error:
        raise InstallationError(str(error)) from error
    except OSError as error:
        raise InstallationError(f"{error.filename or places.state}: {error.strerror}") from error
    return Enrolled(identity, tuple(made), tuple(kept))


def _enrolled(places: Places, wanted: Enrolling, account: Account | None) -> AgentIdentity:
    folder = IdentityFolder(places.state)
    with acting_as(account):
        enrol(
            folder,
            control=wanted.server,
            token=wanted.token,
            agent=wanted.agent,
            authority=places.authority,
            version=own_version(),
        )
        provide_token(places)
        return folder.read()
