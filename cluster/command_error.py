"""Errors that end a command with one line on standard error, and the exit codes that scripts can rely on.

0: it worked. 1: it failed, or part of what was asked for did. 2: the command line is wrong. 3: nothing is running.
"""

from __future__ import annotations

from typing import Final

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NOT_RUNNING: Final = 3


class CommandError(Exception):
    """Something a person can act on: the text is shown as it is, without a traceback."""

    exit_code: int = EXIT_FAILED


class UsageError(CommandError):
    """The command line asks for something that makes no sense."""

    exit_code = EXIT_USAGE


class NotRunningError(CommandError):
    """Nothing answers where Trust SOC should be."""

    exit_code = EXIT_NOT_RUNNING

    def __init__(self, base_url: str) -> None:
        super().__init__(f"Trust SOC is not running on {base_url}: start it with `trustsoc up`")
