"""`trustsoc-agent`: sets up, runs, shows, examines and removes the agent of this host.

Only argparse is imported before a command is chosen: the commands import what they need.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.installation.places import Places

Command = Callable[[argparse.Namespace, "Places"], int]


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 when all is well, 1 when something is wrong, 2 when it cannot be done as asked."""
    given = _parser().parse_args(argv)
    from agent.installation.places import InstallationError, Places

    command: Command = given.command
    try:
        return command(given, Places(given.settings.absolute(), given.state.absolute()))
    except InstallationError as error:
        print(f"trustsoc-agent: {error}", file=sys.stderr)
    except OSError as error:
        # The service is started again after this, not after 2: a disk may have room by then.
        print(f"trustsoc-agent: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 2


def _parser() -> argparse.ArgumentParser:
    places = argparse.ArgumentParser(add_help=False)
    places.add_argument("--settings", type=Path, default=Path("/etc/trustsoc-agent"), help="the owner's files")
    places.add_argument("--state", type=Path, default=Path("/var/lib/trustsoc-agent"), help="the agent's own files")
    parser = argparse.ArgumentParser(prog="trustsoc-agent", description="The Trust SOC agent of this host.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, says: str) -> argparse.ArgumentParser:
        # `--token SECRET` must not be taken for --token-file: all users of the host can read commands.
        made = commands.add_parser(name, help=says, description=says, parents=[places], allow_abbrev=False)
        made.set_defaults(command=command)
        return made

    _enrol_options(add("enroll", _enroll, "Give this host an identity, by a one-time token, and settings."))
    add("run", _run, "Run forwarder, controller and collector until SIGTERM.")
    status = add("status", _status, "Who this agent is, what runs, and what waits.")
    status.add_argument("--json", action="store_true", help="as JSON")
    doctor = add("doctor", _doctor, "What is wrong here, and what mends it.")
    doctor.add_argument("--offline", action="store_true", help="leave the network out")
    doctor.add_argument("--json", action="store_true", help="as JSON")
    poison = add("poison", _poison, "List, send anew or drop the batches that the server refused for ever.")
    poison.add_argument("action", choices=["list", "resend", "drop"])
    poison.add_argument("batches", nargs="*", metavar="BATCH", help="names, as `list` shows them")
    poison.add_argument("--all", action="store_true", help="all that lie there")
    poison.add_argument("--json", action="store_true", help="the list as JSON")
    key = add("signing-key", _signing_key, "Put a new signing key in place.")
    key.add_argument("--secret-file", default="", metavar="FILE", help="holds the secret; -: standard input")
    remove = add("uninstall", _uninstall, "Remove identity, keys, memory and spool from this host.")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    remove.add_argument("--settings-too", action="store_true", help="remove the owner's settings as well")
    remove.add_argument("--lose-unsent", action="store_true", help="also when records were not sent")
    return parser


def _enrol_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", required=True, metavar="URL", help="https://HOST:PORT of the server's TLS port")
    parser.add_argument("--authority", required=True, type=Path, metavar="FILE", help="who signs its certificate (PEM)")
    parser.add_argument("--token-file", default="", metavar="FILE", help="holds the token; -: standard input")
    parser.add_argument("--name", default="", help="this agent's name; without it the host's")
    parser.add_argument("--user", default="", help="the account that it runs as (trustsoc-agent where there is one)")
    parser.add_argument("--port", type=int, default=4319, help="where it takes OTLP on loopback")
    parser.add_argument(
        "--tail", action="append", default=[], metavar="GLOB", help="files to tail; give it again for more"
    )
    parser.add_argument("--collector", default="", metavar="FILE", help="the collector's program (otelcol-contrib)")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="what it says of itself")


def _enroll(given: argparse.Namespace, places: Places) -> int:
    from agent.installation.enrolment import Enrolling, enrol_host, read_token
    from agent.installation.places import InstallationError
    from agent.installation.settings_files import Choices, program_of

    labels = {}
    for text in given.label:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise InstallationError(f"--label {text}: it must be NAME=VALUE")
        labels[name] = value
    choices = Choices(given.port, tuple(given.tail), program_of(given.collector), labels)
    name = given.name or _host()
    wanted = Enrolling(given.server, given.authority, read_token(given.token_file), name, given.user, choices)
    done = enrol_host(places, wanted)
    print(f"Enrolled {done.identity.agent} for {done.identity.tenant_name}. Its keys are in {places.state}.")
    for path in done.made:
        print(f"made {path}")
    for path in done.kept:
        print(f"kept {path}, which was there: compare it with what `trustsoc-agent doctor` says")
    print("Start it: systemctl enable --now trustsoc-agent, or trustsoc-agent run.")
    return 0


def _host() -> str:
    import socket

    return host_name(socket.gethostname())


def host_name(full: str) -> str:
    """What an agent is called on a host of that name: without the domain, in small letters as all agents' names are."""
    return full.partition(".")[0].lower()


def _run(_: argparse.Namespace, places: Places) -> int:
    from agent.installation.supervisor import run_agent

    return run_agent(places)


def _status(given: argparse.Namespace, places: Places) -> int:
    from agent.installation.overview import in_words, overview

    found = overview(places)
    if given.json:
        import json

        print(json.dumps(found, indent=1))
    else:
        print(in_words(found))
    return 0 if found["state"] == "ok" else 1


def _doctor(given: argparse.Namespace, places: Places) -> int:
    from agent.installation.doctor import examine

    findings = examine(places, offline=given.offline)
    if given.json:
        import json
        from dataclasses import asdict

        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"{finding.severity:<8} {finding.name:<12} {finding.detail}")
    return 1 if any(finding.severity == "error" for finding in findings) else 0


def _signing_key(given: argparse.Namespace, places: Places) -> int:
    from agent.installation.enrolment import read_secret
    from agent.installation.signing_key import use_signing_key

    key_id, troubles = use_signing_key(places, read_secret(given.secret_file))
    print(f"The signing key {key_id} is in place.")
    for trouble in troubles:
        print(f"the forwarder was not told: {trouble}: systemctl reload trustsoc-agent", file=sys.stderr)
    return 1 if troubles else 0


def _poison(given: argparse.Namespace, places: Places) -> int:
    from agent.installation.poison import drop, resend, show

    if given.action == "list":
        return show(places, as_json=given.json)
    return (resend if given.action == "resend" else drop)(places, given.batches, everything=given.all)


def _uninstall(given: argparse.Namespace, places: Places) -> int:
    from agent.installation.places import InstallationError
    from agent.installation.removal import uninstall

    if not given.yes:
        if not sys.stdin.isatty():
            raise InstallationError("nobody is here to ask: give --yes")
        if input(f"Remove the agent's identity, keys and spool from {places.state}? [y/N] ").strip().lower() != "y":
            return 1
    done = uninstall(places, settings_too=given.settings_too, lose_unsent=given.lose_unsent)
    for path in done.removed:
        print(f"removed {path}")
    for path in done.left:
        print(f"left {path}")
    name = done.agent or "NAME"
    print(f"On the server: `trustsoc agent revoke {name}` ends its keys and certificates.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
