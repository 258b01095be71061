"""A whole hunt: units to judges, results to a writer, every line on the books."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from detect.record import Logsource, Nanoseconds
from detect.sigma import RuleSet
from hunt.books import HuntBooks
from hunt.correlate import CorrelationFaults, CorrelationSpool, correlated
from hunt.found import Found, FoundWriter
from hunt.frames import Setup
from hunt.inputs import RANGE_BYTES, InputFile, NamedError, units_of
from hunt.judge import Judge, Result, Scope
from hunt.log_format import LogFormat
from hunt.processes import OwnInterpreter, Worker, can_copy, copies
from hunt.rule_book import RuleChoice
from hunt.rule_cache import LoadedRules
from hunt.team import Team
from hunt.units import Unit, judge_unit

WORTH_A_COPY: Final = 2 * RANGE_BYTES
"""Bytes for which a copy of this process pays, which starts in milliseconds."""
WORTH_AN_INTERPRETER: Final = 16 << 20
WORTH_A_RULE: Final = 24 << 10
"""Bytes for which an interpreter pays, and for which its loading a rule does: of 3,750 rules some 100 MiB in all."""


class HuntOptions(msgspec.Struct, frozen=True):
    """What is asked of a hunt. Times are nanoseconds; `jobs` is how many processes may judge."""

    choice: RuleChoice = RuleChoice()
    since_ns: Nanoseconds | None = None
    until_ns: Nanoseconds | None = None
    correlate: bool = True
    jobs: int = 1
    stats: bool = False
    format: LogFormat | None = None
    cache: Path | None = None


Watch = Callable[[InputFile, int, HuntBooks], None]
"""Called after each result with the file it is of and how many bytes of that file it took."""


class Hunt:
    """One run over some files by some rules."""

    def __init__(
        self,
        options: HuntOptions,
        sources: Sequence[tuple[str, str]],
        loaded: LoadedRules,
        inputs: Sequence[InputFile],
        errors: Sequence[NamedError] = (),
    ) -> None:
        """`loaded` are the rules of `sources` as chosen; `errors` are files that the inputs could not hold."""
        self._options, self._sources, self._loaded, self._inputs = options, list(sources), loaded, inputs
        self._judge: Judge | None = None
        self.books = HuntBooks(files=len(inputs) + len(errors))
        for error in errors:
            self.books.fail(error)

    def make_ready(self, expecting: Iterable[Logsource]) -> None:
        """Makes ready what a first record would wait for, of these log sources; for those who measure the rest."""
        self._judge = self._loaded.judge(self._scope(), stats=self._options.stats, expecting=expecting)

    def run(self, writer: FoundWriter, watch: Watch) -> HuntBooks:
        """Judges everything. Raises what the writer raises, and WorkerFailed when a worker ends too early."""
        rules, spool = self._loaded.rules, CorrelationSpool()
        by_id = {rule.id: rule for rule in rules.rules}
        lines = [0] * len(self._inputs)
        with closing(spool), closing(self._results()) as results:
            for result in results:
                file = self._inputs[result.source]
                first = lines[result.source] + 1
                lines[result.source] += result.lines
                for hit in result.hits:
                    rule = by_id[hit.rule_id]
                    line = first + hit.line
                    self._tell(writer, Found(rule, "rule", hit.time_ns, file.path, line, hit.message, hit.tail))
                for feed in result.feeds:
                    spool.add(result.source, first, feed)
                self.books.add(result, file.path, first)
                if file.live and result.hits:
                    writer.flush()
                watch(file, result.read, self.books)
            self._correlate(rules, spool, writer)
        writer.flush()
        return self.books

    def _tell(self, writer: FoundWriter, found: Found) -> None:
        self.books.hits[found.rule.id] += 1
        self.books.found[found.level] += 1
        writer.write(found)

    def _correlate(self, rules: RuleSet, spool: CorrelationSpool, writer: FoundWriter) -> None:
        if not len(spool):
            return
        paths = [file.path for file in self._inputs]
        latest_ns, until_ns = self.books.latest_ns, self._options.until_ns
        if until_ns is not None:  # of what came later nothing was judged, so its time says nothing
            latest_ns = min(latest_ns, until_ns)
        try:
            for found in correlated(rules, spool, paths, latest_ns):
                self._tell(writer, found)
        except CorrelationFaults as failed:
            self.books.faults.update({rule_id: (1, error) for rule_id, error in failed.faults.items()})

    def _results(self) -> Generator[Result]:
        options, scope = self._options, self._scope()
        copying = can_copy()
        jobs = self.worth_jobs(copying=copying)
        units = units_of(self._inputs, jobs, options.format)
        if jobs > 1 and not copying:
            cache = str(options.cache or "")
            setup = Setup(self._sources, options.choice, scope, options.correlate, options.stats, cache)
            yield from self._by_team([OwnInterpreter(setup) for _ in range(jobs)], units)
            return
        judge = self._judge or self._loaded.judge(scope, stats=options.stats)
        for unit in units if jobs == 1 else self._first(units):
            yield from judge_unit(judge, unit)
        if jobs > 1:
            yield from self._by_team(copies(judge, jobs), units)

    def _scope(self) -> Scope:
        rules = self._loaded.rules
        return Scope(
            self._options.since_ns,
            self._options.until_ns,
            frozenset(rule.id for rule in rules.rules) - rules.silent,
            frozenset(source for rule in rules.correlations for source in rule.sources),
        )

    def _first(self, units: Iterator[Unit]) -> Iterator[Unit]:
        """The unit to judge before copies are made, which then share what the judge had to make ready for it."""
        first = self._inputs[0] if self._inputs else None
        if first is not None and first.direct and first.format not in ("json", "evtx"):
            yield from islice(units, 1)

    @staticmethod
    def _by_team(workers: Sequence[Worker], units: Iterator[Unit]) -> Iterator[Result]:
        with Team(workers) as team:
            yield from team.results(units)

    def worth_jobs(self, *, copying: bool) -> int:
        """How many processes this hunt is worth: a small one is over before a worker has started."""
        if any(file.live for file in self._inputs):
            return self._options.jobs
        rules = len(self._loaded.everything.rules)
        worth = WORTH_A_COPY if copying else WORTH_AN_INTERPRETER + rules * WORTH_A_RULE
        size = sum(file.size if file.direct else 8 * file.size for file in self._inputs)
        return max(1, min(self._options.jobs, -(-size // worth)))
