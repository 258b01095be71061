"""Correlations over a whole hunt: the matches that feed them are put aside, and judged at the end in event-time order.

Workers see files out of order and files overlap in time, so no order in which matches come is the order in which
things happened. What is put aside goes to a temporary file once it is more than a little.
"""

from __future__ import annotations

import dataclasses
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
import orjson

from detect.event import DetectionEvent, Evidence
from detect.record import Entity, LogRecord, Logsource, Nanoseconds, NormalizedRecord, RecordRef, TenantId
from detect.sigma import RuleFault, RuleMatch, RuleSet, SigmaDetector, SigmaRule
from hunt.found import Found, rfc3339
from hunt.judge import LINE_BITS, Feed

MEMORY_BYTES: Final = 64 << 20
_TENANT = TenantId(UUID(int=0))
_FEED = msgspec.msgpack.Decoder(Feed)


class CorrelationSpool:
    """The matches of a hunt that feed correlations, in event-time order when they are asked for."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115 - closed by close
        self._times = array("q")
        self._places = array("q")
        self._offsets = array("q")
        self._end = 0

    def __len__(self) -> int:
        return len(self._times)

    def add(self, source: int, first_line: int, feed: Feed) -> None:
        """Puts a feed aside; its line counts from `first_line` (from 1) of its file."""
        data = msgspec.msgpack.encode(feed)
        self._file.write(data)
        self._times.append(feed.time_ns)
        self._places.extend((source, (first_line + feed.line) << LINE_BITS | feed.index))
        self._offsets.append(self._end)
        self._end += len(data)

    def in_order(self) -> Iterator[tuple[RecordRef, Feed]]:
        """All that was put aside, by event time; what happened at one time in the order of files and lines."""
        import numpy as np

        self._offsets.append(self._end)
        for number in np.argsort(np.frombuffer(self._times, dtype=np.int64), kind="stable").tolist():
            self._file.seek(self._offsets[number])
            data = self._file.read(self._offsets[number + 1] - self._offsets[number])
            yield RecordRef(self._places[2 * number], self._places[2 * number + 1]), _FEED.decode(data)
        self._offsets.pop()

    def close(self) -> None:
        """Forgets everything."""
        self._file.close()


class _Stated:
    """A matcher that is told what matches: the workers have judged the records."""

    def __init__(self, rules: Sequence[SigmaRule]) -> None:
        self._rules = {rule.id: rule for rule in rules}
        self.ids: tuple[str, ...] = ()

    def match(self, _: NormalizedRecord) -> tuple[RuleMatch, ...]:
        return tuple(RuleMatch(self._rules[rule_id], {}) for rule_id in self.ids)

    def take_faults(self) -> list[RuleFault]:
        return []


class CorrelationFaults(Exception):
    """Correlations that failed on some matches; the others were judged all the same."""

    def __init__(self, faults: dict[str, str]) -> None:
        super().__init__(", ".join(faults))
        self.faults = faults


def correlated(
    rules: RuleSet, spool: CorrelationSpool, files: Sequence[str], latest_ns: Nanoseconds
) -> Iterator[Found]:
    """The correlations that were met, as time went by. `latest_ns`: how far event time came in the whole run.

    Raises CorrelationFaults at the end when some failed.
    """
    stated = _Stated(rules.rules)
    silenced = dataclasses.replace(rules, silent=rules.silent | {rule.id for rule in rules.rules})
    detector = SigmaDetector(_TENANT, silenced, lambda _: stated)
    by_id = {rule.id: rule for rule in rules.correlations}
    attributes: dict[str, Any] = {}

    def found(event: DetectionEvent) -> Found:
        rule, cause = by_id[event.rule_id], event.cause
        matched = {name: value for name, value in event.matched.items() if not name.startswith("rule_")}
        message = next((entry.message for entry in event.evidence if entry.ref == cause), "")
        told = {
            "matched": matched,
            "record": {"message": message},
            "attributes": event.attributes,
            "end": rfc3339(event.end_ns),
            "records": [_evidence(entry, files) for entry in event.evidence],
        }
        line = cause.position >> LINE_BITS
        return Found(rule, "correlation", event.time_ns, files[cause.seq], line, message, orjson.dumps(told)[1:])

    for ref, feed in spool.in_order():
        for event in detector.tick(feed.time_ns):
            yield found(event)
        stated.ids = feed.rule_ids
        for event in detector.observe(_record(ref, feed, attributes)):
            yield found(event)
    for event in detector.tick(latest_ns):
        yield found(event)
    if faults := detector.take_faults():
        raise CorrelationFaults({fault.subject: fault.error for fault in faults})


def _evidence(entry: Evidence, files: Sequence[str]) -> dict[str, Any]:
    return {
        "file": files[entry.ref.seq],
        "line": entry.ref.position >> LINE_BITS,
        "time": rfc3339(entry.time_ns),
        "message": entry.message,
    }


def _record(ref: RecordRef, feed: Feed, resource: dict[str, Any]) -> NormalizedRecord:
    time_ns = feed.time_ns
    return NormalizedRecord(
        LogRecord(ref, time_ns, time_ns, time_ns, time_ns, 0, "", None, feed.attributes, resource),
        Logsource(*feed.logsource),
        feed.fields,
        tuple(Entity(*entity) for entity in feed.entities),  # type: ignore[arg-type]  # as they left the normaliser
        feed.message,
        feed.activity,
        feed.outcome,  # type: ignore[arg-type]  # as it left the normaliser
    )
