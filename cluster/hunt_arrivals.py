"""Which log sources and fields some files hold: a hunt without rules."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from rich.console import Console

from cluster.command_error import CommandError
from cluster.render_hunt import show_errors
from detect.sigma.coverage import Arrivals
from hunt.found import Found
from hunt.inputs import find_files, open_inputs
from hunt.rule_book import RuleChoice
from hunt.rule_cache import load_rules
from hunt.run import Hunt, HuntOptions
from hunt.team import WorkerFailed


class _Nowhere:
    """Without rules nothing is found."""

    def write(self, found: Found) -> None:
        raise AssertionError(f"found {found.rule.title} without rules")

    def flush(self) -> None:
        return


def arrivals_in(names: Sequence[str], console: Console) -> Arrivals:
    """What arrives when the files are read; those that cannot be read are named on the console.

    Raises CommandError when a worker ends too early, and when no file could be read: then nothing is known.
    """
    paths, missing = find_files(names)
    inputs, unreadable = open_inputs(paths, time.time_ns())
    options = HuntOptions(jobs=len(os.sched_getaffinity(0)), stats=True)
    hunting = Hunt(options, [], load_rules([], RuleChoice(), None, False), inputs, [*missing, *unreadable])
    try:
        books = hunting.run(_Nowhere(), lambda _file, _read, _books: None)
    except WorkerFailed as error:
        raise CommandError(str(error)) from error
    show_errors(console, books)
    if books.files_failed and not books.records:
        raise CommandError("no record could be read: what arrives is not known")
    return books.arrivals or Arrivals()
