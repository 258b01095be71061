"""Real Windows events as OTLP requests, read in place from the evaluation data beside the checkout."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import orjson
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from bench.evaluation_records import reader
from bench.otlp_values import any_value
from detect.batch import Batch

Shape = Literal["map", "line"]
"""How an event stands in its record's body: as a map of attributes, or as a line of JSON."""

_BASE_NS = 1_795_338_000 * 10**9
_REQUEST = 2000
_EVENTS_THERE = 119_543
_KEPT = frozenset({"EventID", "Channel", "SourceName", "Hostname", "EventType", "Version", "Task", "Opcode"})
_DIGITS = "0123456789"
# Shorter ones are parts of names that rules know: System32, v1.0.
_LONG_NUMBER = re.compile("[0-9]{3,}")


def public_rules() -> list[tuple[str, str]]:
    """(path, YAML text) of every rule of SigmaHQ's archive."""
    return list(reader().sigma_rules())


def natural_events(count: int) -> Iterator[dict[str, Any]]:
    """So many Windows events of the attack scenarios in their order, background included.

    Fewer than there are: every n-th. More: they repeat with other digits in long numbers (ids, times, addresses), which
    makes values new in about the proportion in which real ones are.
    """
    every = max(1, _EVENTS_THERE // count)
    passes = (
        _with_other_digits(event, shift)
        for shift in itertools.count()
        for event in itertools.islice(_windows_events(), 0, None, every)
    )
    return itertools.islice(passes, count)


def process_creations(count: int) -> Iterator[dict[str, Any]]:
    """So many process creations (Sysmon 1, Security 4688), each with a command line of its own."""
    numbers = {("Microsoft-Windows-Sysmon", 1), ("Microsoft-Windows-Security-Auditing", 4688)}
    found = [event for event in _windows_events() if (event.get("SourceName"), event["EventID"]) in numbers]
    for place, event in enumerate(itertools.islice(itertools.cycle(found), count)):
        line = event.get("CommandLine") or event.get("NewProcessName")
        yield {**_with_other_digits(event, place // len(found)), "CommandLine": f"{line} /n {place:x}"}


def all_unique(count: int) -> Iterator[dict[str, Any]]:
    """So many natural events of which every text is unique, those apart that say what kind of event it is."""
    for place, event in enumerate(natural_events(count)):
        yield {name: _unique(name, value, place) for name, value in event.items()}


def _windows_events() -> Iterator[dict[str, Any]]:
    for label in reader().mordor():
        for event in label["events"]:
            if isinstance(event, dict) and "EventID" in event:
                yield event


def _with_other_digits(event: dict[str, Any], shift: int) -> dict[str, Any]:
    turned = str.maketrans(_DIGITS, _DIGITS[shift % 10 :] + _DIGITS[: shift % 10])
    if not shift:
        return event
    return {
        name: _LONG_NUMBER.sub(lambda number: number[0].translate(turned), value)
        if isinstance(value, str) and name not in _KEPT
        else value
        for name, value in event.items()
    }


def _unique(name: str, value: Any, place: int) -> Any:
    return f"{value} {place:x}" if isinstance(value, str) and name not in _KEPT else value


def write_requests(path: Path, events: Iterator[dict[str, Any]], shape: Shape) -> None:
    """Keeps the events as OTLP protobuf requests of 2,000 records."""
    with path.open("wb") as file:
        for batch in _requests(events, shape):
            file.write(len(batch.payload).to_bytes(8, "big") + batch.payload)


def kept_requests(path: Path) -> Iterator[Batch]:
    """The requests of a file, one at a time."""
    with path.open("rb") as file:
        for seq in itertools.count(1):
            size = file.read(8)
            if not size:
                return
            yield Batch(seq, _BASE_NS, "otlp_protobuf", file.read(int.from_bytes(size, "big")))


def _requests(events: Iterator[dict[str, Any]], shape: Shape) -> Iterator[Batch]:
    for seq in itertools.count(1):
        part = list(itertools.islice(events, _REQUEST))
        if not part:
            return
        request = ExportLogsServiceRequest()
        records = request.resource_logs.add().scope_logs.add().log_records
        for place, event in enumerate(part):
            record = records.add(time_unix_nano=_BASE_NS + place * 1_000_000, severity_number=9)
            if shape == "line":
                record.body.string_value = orjson.dumps(event).decode()
            else:
                record.body.CopyFrom(any_value(event))
        yield Batch(seq, _BASE_NS, "otlp_protobuf", request.SerializeToString())
