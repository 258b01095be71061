"""`python -m bench.sigma_equality [--every N]`: both matchers on all evaluation data, record by record, rule by rule.

Exit status 1 when they differ anywhere; the first differences are printed. All of it takes the reference some minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field

from bench.evaluation_records import SETS, reader, sampled
from detect.sigma import CompiledMatcher, NaiveMatcher, load_rule_set

MOST_SHOWN = 20


@dataclass
class Comparison:
    """What was compared and what differed; CPU seconds of each matcher."""

    name: str
    records: int = 0
    matches: int = 0
    naive_s: float = 0.0
    compiled_s: float = 0.0
    differences: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        naive, compiled = (self.records / (seconds or 1) for seconds in (self.naive_s, self.compiled_s))
        return (
            f"{self.name:12} {self.records:8,} records {self.matches:8,} matches {len(self.differences)} differences; "
            f"naive {naive:8,.0f}/s, compiled {compiled:8,.0f}/s"
        )


def compare(every: int = 1) -> list[Comparison]:
    """Every n-th record of each set, judged by both with all public rules."""
    data = reader()
    rules = load_rule_set(list(data.sigma_rules())).rules
    naive, compiled = NaiveMatcher(rules), CompiledMatcher(rules)
    found = []
    for name in SETS:
        comparison = Comparison(name)
        for record in sampled(data, {name: every}):
            start = time.process_time()
            ours = compiled.match(record)
            middle = time.process_time()
            theirs = naive.match(record)
            comparison.naive_s += time.process_time() - middle
            comparison.compiled_s += middle - start
            comparison.records += 1
            comparison.matches += len(theirs)
            if ours != theirs:
                differing = {match.rule.id for match in ours} ^ {match.rule.id for match in theirs}
                comparison.differences.append(f"{name} {record.record.ref}: {sorted(differing) or 'what matched'}")
        found.append(comparison)
    faults = [*naive.take_faults(), *compiled.take_faults()]
    if faults:
        found[-1].differences.append(f"faults: {faults[:MOST_SHOWN]}")
    return found


def main() -> int:
    """Compares, prints one line for each set, and says whether all was equal."""
    parser = argparse.ArgumentParser(prog="python -m bench.sigma_equality", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="one record in so many (default: all)")
    comparisons = compare(parser.parse_args().every)
    for comparison in comparisons:
        sys.stdout.write(f"{comparison}\n")
        for difference in comparison.differences[:MOST_SHOWN]:
            sys.stdout.write(f"  {difference}\n")
    return 1 if any(comparison.differences for comparison in comparisons) else 0


if __name__ == "__main__":
    sys.exit(main())
