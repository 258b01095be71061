"""Loading the rules of a hunt, for its own process and for each of its workers: parsed and compiled once."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from actors.rule_cache import RuleCache
from detect.normalize import default_normalizer
from detect.record import Logsource
from detect.sigma import CompiledMatcher, RuleSet
from detect.sigma.codec import CompiledRules
from detect.sigma.pack import source_digest
from detect.sigma.scanner import FinderShelf, usable_engine
from hunt.cost import CostSample
from hunt.judge import Judge, Scope
from hunt.rule_book import RuleChoice, chosen

FEW: Final = 0.2
"""Of so small a part of the rules a matcher of their own is quicker to build than that of all is to judge by."""


@dataclass(frozen=True, slots=True)
class LoadedRules:
    """The rules that are judged by. `everything` also has those that were not chosen, and all errors."""

    rules: RuleSet
    everything: RuleSet
    shelf: FinderShelf

    def matcher(self) -> CompiledMatcher:
        """A matcher of the chosen rules; it may also match others, whose matches mean nothing."""
        few = len(self.rules.rules) < FEW * len(self.everything.rules)
        return CompiledMatcher(self.rules.rules) if few else CompiledMatcher(self.everything.rules, self.shelf)

    def judge(self, scope: Scope, *, stats: bool, expecting: Iterable[Logsource] = ()) -> Judge:
        """A judge by the chosen rules; `stats`: it also says what arrived, and samples what rules cost.

        What records of the expected log sources need is made ready, which otherwise the first of each wait for.
        """
        matcher = self.matcher()
        matcher.prepare(expecting)
        cost = CostSample(self.rules.rules) if stats else None
        return Judge(default_normalizer(), matcher, scope, count_arrivals=stats, cost=cost)


def load_rules(
    sources: Sequence[tuple[str, str]], choice: RuleChoice, cache: Path | None, correlate: bool
) -> LoadedRules:
    """The rules of the sources, reduced to the chosen ones.

    `cache` is a folder for compiled rules; a first run fills it, which takes some seconds for thousands of rules.
    """
    kept = None if cache is None else RuleCache(cache, _warn)
    engine = usable_engine()
    compiled = None if kept is None else kept.read(source_digest(sources), engine.name)
    if compiled is not None:
        everything, shelf = compiled.rules, FinderShelf(engine, compiled.dumps)
    else:
        everything, shelf = _parsed(sources, kept)
    return LoadedRules(chosen(everything, choice, correlate=correlate), everything, shelf)


def _parsed(sources: Sequence[tuple[str, str]], kept: RuleCache | None) -> tuple[RuleSet, FinderShelf]:
    from detect.sigma import load_rule_set
    from detect.sigma.expected_logsources import expected_logsources

    rules = load_rule_set(sources)
    matcher = CompiledMatcher(rules.rules)
    if kept is not None:
        matcher.prepare(expected_logsources(rules.rules))
        kept.write(CompiledRules(rules, matcher.shelf.engine.name, matcher.shelf.dumps()))
    return rules, matcher.shelf


def _warn(event: str, **particulars: object) -> None:
    sys.stderr.write(f"{event} ({', '.join(f'{name}: {value}' for name, value in particulars.items())})\n")
