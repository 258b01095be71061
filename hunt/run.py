"""A whole hunt: units to judges, results to a writer, every line on the books."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from detect.record import Nanoseconds
from detect.sigma import RuleSet
from hunt.books import HuntBooks
from hunt.correlate import CorrelationFaults, CorrelationSpool, correlated
from hunt.found import Found, FoundWriter
from hunt.frames import Setup
from hunt.inputs import InputFile, NamedError, units_of
from hunt.judge import Judge, Result, Scope
from hunt.log_format import LogFormat
from hunt.rule_book import RuleChoice
from hunt.rule_cache import LoadedRules
from hunt.team import Team
from hunt.units import Unit, judge_unit

WORTH_A_WORKER = 8 << 20
"""Bytes for which another process pays."""


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
        self.books = HuntBooks(files=len(inputs) + len(errors))
        for error in errors:
            self.books.fail(error)

    def run(self, writer: FoundWriter, watch: Watch) -> HuntBooks:
        """Judges everything. Raises what the writer raises, and WorkerFailed when a worker ends too early."""
        rules, spool = self._loaded.rules, CorrelationSpool()
        by_id = {rule.id: rule for rule in rules.rules}
        lines = [0] * len(self._inputs)
        with closing(spool):
            for result in self._results(rules):
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
        try:
            for found in correlated(rules, spool, paths, self.books.latest_ns):
                self._tell(writer, found)
        except CorrelationFaults as failed:
            self.books.faults.update({rule_id: (1, error) for rule_id, error in failed.faults.items()})

    def _results(self, rules: RuleSet) -> Iterator[Result]:
        options = self._options
        scope = Scope(
            options.since_ns,
            options.until_ns,
            frozenset(rule.id for rule in rules.rules) - rules.silent,
            frozenset(source for rule in rules.correlations for source in rule.sources),
        )
        jobs = self.worth_jobs()
        units = units_of(self._inputs, jobs, options.format)
        if jobs == 1:
            judge = self._loaded.judge(scope, stats=options.stats)
            yield from self._alone(judge, units)
            return
        setup = Setup(self._sources, options.choice, scope, options.correlate, options.stats, str(options.cache or ""))
        with Team(setup, jobs) as team:
            yield from team.results(units)

    @staticmethod
    def _alone(judge: Judge, units: Iterator[Unit]) -> Iterator[Result]:
        for unit in units:
            yield from judge_unit(judge, unit)

    def worth_jobs(self) -> int:
        """How many processes this hunt is worth: a small one is over before a worker has loaded its rules."""
        if any(file.live for file in self._inputs):
            return self._options.jobs
        size = sum(file.size if file.direct else 8 * file.size for file in self._inputs)
        return max(1, min(self._options.jobs, -(-size // WORTH_A_WORKER)))
