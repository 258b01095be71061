"""One block of a file through the normaliser and the rules: what was found in it, and what became of every line.

This is the part that runs in every worker, so its results are small: matches, and counts of all the rest.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import msgspec
import orjson

from detect.normalize import Normalizer
from detect.record import AnyValue, LogRecord, Nanoseconds, NormalizedRecord, RecordRef, canonical_json
from detect.sigma.coverage import Arrivals
from detect.sigma.match import RuleMatch, RuleMatcher
from hunt.compressed import DAMAGE
from hunt.cost import CostSample
from hunt.event_time import time_of_body
from hunt.records import MAX_NAMED_BAD, LineBooks, Placed, Source, UnreadableDocument

LINE_BITS = 20
"""A record's position is its line, shifted by so many bits, and its place on that line: one number, in order."""

_MESSAGE = 1000
"""Characters of a message in a table of findings."""


class Scope(msgspec.Struct, frozen=True):
    """Which records are judged: event times in [since_ns, until_ns); a record without a time always is.

    `alerting` and `correlated` are ids of rules: whose matches are told, and whose matches feed correlations.
    """

    since_ns: Nanoseconds | None = None
    until_ns: Nanoseconds | None = None
    alerting: frozenset[str] = frozenset()
    correlated: frozenset[str] = frozenset()


class Hit(msgspec.Struct, array_like=True, frozen=True):
    """A match to be told. `line` and `index` are the record's place; `tail` is the rest of the output line as JSON."""

    rule_id: str
    line: int
    index: int
    time_ns: Nanoseconds | None
    message: str
    tail: bytes


class Feed(msgspec.Struct, array_like=True, frozen=True):
    """A record whose matches correlations count, without its body: `time_ns` is its event time, or its file's."""

    rule_ids: tuple[str, ...]
    line: int
    index: int
    time_ns: Nanoseconds
    logsource: tuple[str, str, str]
    fields: dict[str, Any]
    entities: tuple[tuple[str, str, str], ...]
    message: str
    activity: str
    outcome: str
    attributes: dict[str, Any]


class Result(msgspec.Struct, array_like=True):
    """All that came of a block. lines = carrying + blank + bad; records = judged + outside + failed.

    `latest_ns` is a time near the end of the block, 0 when no record there states one. `failure` says why the file
    could not be read to its end, "" when it could. `arrivals` is a snapshot of detect.sigma.coverage.Arrivals, where
    they are asked for, `costs` what hunt.cost sampled. `read` is how many bytes of the file are done.
    """

    source: int
    lines: int = 0
    carrying: int = 0
    blank: int = 0
    mended: int = 0
    records: int = 0
    judged: int = 0
    outside: int = 0
    failed: int = 0
    latest_ns: Nanoseconds = 0
    read: int = 0
    failure: str = ""
    bad: dict[str, int] = msgspec.field(default_factory=dict)
    named: list[tuple[int, str]] = msgspec.field(default_factory=list)
    odd: list[tuple[int, str]] = msgspec.field(default_factory=list)
    faults: dict[str, tuple[int, str]] = msgspec.field(default_factory=dict)
    arrivals: dict[str, Any] | None = None
    costs: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict)
    hits: list[Hit] = msgspec.field(default_factory=list)
    feeds: list[Feed] = msgspec.field(default_factory=list)


class Judge:
    """Judges records by one set of rules. Not for use by two threads."""

    def __init__(
        self,
        normalizer: Normalizer,
        matcher: RuleMatcher,
        scope: Scope,
        *,
        count_arrivals: bool,
        cost: CostSample | None = None,
    ) -> None:
        """`count_arrivals`: whether results say which log sources and fields came, which costs a little; `cost`
        samples what rules cost."""
        self._normalize = normalizer.normalize
        self._matcher = matcher
        self._scope = scope
        self._timed = scope.since_ns is not None or scope.until_ns is not None
        self._count_arrivals = count_arrivals
        self._cost = cost

    def results(
        self, placed: Iterable[Placed], source: Source, books: LineBooks, most: int = sys.maxsize
    ) -> Iterator[Result]:
        """The records' results, `most` records in one. Lines count from 0 in every result, from the last one's end."""
        records = iter(placed)
        base = 0
        while True:
            result = self._judge(records, source, base, most)
            self._settle(result, books, base)
            base += result.lines
            yield result
            if result.records < most or result.failure:
                return

    def _judge(self, records: Iterator[Placed], source: Source, base: int, most: int) -> Result:
        result = Result(source.number)
        arrivals = Arrivals() if self._count_arrivals else None
        collecting = gc.isenabled()
        gc.disable()  # Nothing here makes cycles, and a collection would look at every cached value.
        try:
            self._judge_each(islice(records, most), result, base, arrivals)
        except UnreadableDocument as error:
            result.failure = str(error)
        except DAMAGE as error:
            result.failure = f"damaged: {error or type(error).__name__}"
        finally:
            if collecting:
                gc.enable()
        result.judged = result.records - result.outside - result.failed
        result.arrivals = None if arrivals is None else arrivals.snapshot()
        result.costs = {} if self._cost is None else self._cost.take()
        for fault in self._matcher.take_faults():
            count, first = result.faults.get(fault.rule_id, (0, fault.error))
            result.faults[fault.rule_id] = (count + 1, first)
        return result

    def _judge_each(self, records: Iterator[Placed], result: Result, base: int, arrivals: Arrivals | None) -> None:
        normalize, match, cost = self._normalize, self._matcher.match, self._cost
        previous, index, record = -1, 0, None
        try:
            for line, record in records:
                index = index + 1 if line == previous else 0
                previous = line
                result.records += 1
                if self._timed and self._is_outside(record):
                    result.outside += 1
                    continue
                try:
                    normalized = normalize(record)
                    matches = match(normalized)
                except Exception as error:  # one odd record must not stop the others; it is named, and on the books
                    result.failed += 1
                    if len(result.odd) < MAX_NAMED_BAD:
                        result.odd.append((line - base, f"{type(error).__name__}: {error}"[:300]))
                    continue
                if matches:
                    self._keep(result, matches, normalized, line - base, index)
                if arrivals is not None:
                    arrivals.add(normalized)
                if cost is not None:
                    cost.add(normalized)
        finally:
            if record is not None:  # also where the file ends damaged: so far its time had come
                result.latest_ns = stated_time(record) or 0

    @staticmethod
    def _settle(result: Result, books: LineBooks, base: int) -> None:
        """Moves what the books say of the lines so far into the result."""
        result.lines, result.carrying = books.lines - base, books.carrying
        result.blank, result.mended = books.blank, books.mended
        result.bad, result.named = books.bad, [(line - base, reason) for line, reason in books.named]
        books.carrying = books.blank = books.mended = 0
        books.bad, books.named = {}, []

    def _is_outside(self, record: LogRecord) -> bool:
        time_ns = stated_time(record)
        if time_ns is None:
            return False
        since_ns, until_ns = self._scope.since_ns, self._scope.until_ns
        return (since_ns is not None and time_ns < since_ns) or (until_ns is not None and time_ns >= until_ns)

    def _keep(
        self, result: Result, matches: tuple[RuleMatch, ...], normalized: NormalizedRecord, line: int, index: int
    ) -> None:
        record, scope = normalized.record, self._scope
        told = [match for match in matches if match.rule.id in scope.alerting]
        fed = tuple(match.rule.id for match in matches if match.rule.id in scope.correlated)
        if not (told or fed):
            return
        time_ns = stated_time(record)
        if told:
            message = _printable(normalized.message_start(_MESSAGE))
            rest = b',"record":%b,"attributes":%b}' % (record_json(record), _json(record.attributes))
            for match in told:
                tail = b'"matched":' + _json(match.matched) + rest
                result.hits.append(Hit(match.rule.id, line, index, time_ns, message, tail))
        if fed:
            at_ns = record.received_ns if time_ns is None else time_ns
            result.feeds.append(
                Feed(
                    fed,
                    line,
                    index,
                    at_ns,
                    (*normalized.logsource,),
                    _storable(normalized.fields),
                    tuple((kind, value, role) for kind, value, role in normalized.entities),
                    _printable(normalized.message),
                    normalized.activity,
                    normalized.outcome,
                    _storable(record.attributes),
                )
            )


def stated_time(record: LogRecord) -> Nanoseconds | None:
    """The event time that a record states, in its envelope or in its body; None for none.

    A time beyond 64 bits (before 1677, after 2262) is none: programs write the year 1 where they know no time.
    """
    time_ns = record.stated_ns or record.observed_ns or time_of_body(record.body, record.received_ns)
    return time_ns if time_ns is not None and -(2**63) <= time_ns < 2**63 else None


def _storable(values: dict[str, Any]) -> dict[str, Any]:
    """The same values where MessagePack can hold them; what only JSON's escapes can hold, as JSON has it."""
    try:
        msgspec.msgpack.encode(values)
    except (OverflowError, UnicodeEncodeError, TypeError):
        values = orjson.loads(_json(values))
    return values


def _printable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def record_json(record: LogRecord) -> bytes:
    """The record as it is told: an object as it came, a line as {"message": line}, an OTLP record with all parts."""
    body = record.body
    if isinstance(body, dict):
        return _json(body) if not record.resource and not record.stated_ns else canonical_json(record)
    if record.resource or record.stated_ns or record.scope:
        return canonical_json(record)
    return _json({"message": body})


def _json(value: dict[str, AnyValue]) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except (orjson.JSONEncodeError, UnicodeEncodeError):  # bytes, or numbers and text that are not JSON's
        stored = canonical_json(LogRecord(RecordRef(0, 0), 0, 0, 0, 0, 0, "", value, {}, {}))
        return orjson.dumps(orjson.loads(stored)["body"])
