"""`python -m agent.collector render|check`: what a host's profile becomes, and whether it will do."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from agent.collector.binary import CollectorError
from agent.collector.check import Verdict, check_profile, check_text, small_binary
from agent.collector.profile_file import ProfileFileError, read_profile


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 when all is well, 1 with problems on stderr, 2 for a file or a program that cannot be used."""
    given = _parser().parse_args(arguments)
    try:
        verdict = _judged(given)
    except (ProfileFileError, CollectorError, OSError, UnicodeDecodeError) as error:
        print(error, file=sys.stderr)
        return 2
    for problem in verdict.problems:
        print(problem, file=sys.stderr)
    if verdict.problems:
        return 1
    if given.command == "render":
        print(verdict.configuration, end="")
    else:
        alone = "by rules alone: name the program by --binary"
        print("in order,", f"validated by {verdict.validated}" if verdict.validated else alone)
    return 0


def _judged(given: argparse.Namespace) -> Verdict:
    binary: Path | None = given.binary
    if given.profile is not None:
        # Where none is named the wheel's program can speak for its own build only.
        binary = binary or (small_binary() if given.build == "small" else None)
        return check_profile(read_profile(given.profile), given.build, binary)
    return check_text(given.config.read_text(encoding="utf-8"), binary)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agent.collector", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("render", "write the collector's configuration"), ("check", "only judge it")):
        command = commands.add_parser(name, help=text)
        source = command.add_mutually_exclusive_group(required=True)
        source.add_argument("--profile", type=Path, help="a host's profile (agent/collector/profile_file.py)")
        if name == "check":
            source.add_argument("--config", type=Path, help="a collector's configuration, however it was made")
        command.add_argument("--build", choices=("contrib", "small"), default="contrib")
        command.add_argument("--binary", type=Path, help="the collector's program, which validates too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
