"""`python -m bench.chaos [--kills N] [--seed N] …`: a long chaos run; exit status 1 when a promise broke."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench.chaos.run import Outcome, run
from bench.chaos.schedule import Schedule


def main() -> int:
    """Runs and prints what was killed, what was sent and what broke."""
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--group-kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batches", type=int, default=400, help="batches that are compared with a run in peace")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trustsoc-chaos-") as folder:
        # Root's PostgreSQL runs as another user and must be able to pass through.
        Path(folder).chmod(0o711)
        schedule = Schedule(seed=given.seed, kills=given.kills, group_kills=given.group_kills)
        outcome = run(Path(folder), schedule, given.batches, lambda text: print(text, flush=True))
    _show(outcome)
    return 1 if outcome.broken_promises else 0


def _show(outcome: Outcome) -> None:
    print(f"{outcome.struck.total} kills in {outcome.seconds:.0f} s: {dict(outcome.struck.kills)}")
    for name, verdict in outcome.verdicts.items():
        books = outcome.books[name]
        print(
            f"{name}: {books.attempts} attempts, {len(books.acknowledged)} acknowledged, {verdict.batches} batches, "
            f"{verdict.records} records, {verdict.events} events, {verdict.incidents} incidents"
        )
    print(f"tailed file: {outcome.written_lines} lines, {len(outcome.missing_lines)} missing")
    for text in outcome.broken_promises[:50]:
        print(f"BROKEN: {text}")


if __name__ == "__main__":
    sys.exit(main())
