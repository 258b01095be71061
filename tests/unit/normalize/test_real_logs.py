"""The parsers on real logs that nobody here wrote: nothing raises, and known formats are known."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest

from detect.normalize import default_normalizer
from detect.record import LogRecord, RecordRef
from tests.evaluation_data import data_file, json_lines

pytestmark = pytest.mark.data
NORMALIZER = default_normalizer()


def record(body: Any) -> LogRecord:
    return LogRecord(RecordRef(1, 0), 1, 1, 1, 1, 0, "", body, {}, {})


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("loghub/OpenSSH.jsonl.gz", 0.99),
        ("loghub/Linux.jsonl.gz", 0.90),
        ("loghub/Apache.jsonl.gz", 0.99),
        ("access_log.jsonl.gz", 0.999),
        ("hostile_web.jsonl.gz", 0.999),
    ],
)
def test_lines_of_known_formats_are_known(name: str, share: float) -> None:
    names = [NORMALIZER.recognise(record(entry["line"])) for entry in json_lines(name)]
    assert sum(map(bool, names)) >= share * len(names)


def test_every_line_of_every_raw_log_has_a_view() -> None:
    for path in sorted(data_file("loghub").glob("*.jsonl.gz")):
        for entry in json_lines(f"loghub/{path.name}"):
            assert NORMALIZER.normalize(record(entry["line"])).message


def test_every_windows_event_of_the_attack_samples_is_known_as_text_and_as_object() -> None:
    for case in json_lines("evtx_attack.jsonl.xz"):
        for event in case["events"]:
            seen = NORMALIZER.normalize(record(event))
            assert seen.logsource.product == "windows"
            assert seen.entity("host")
            assert NORMALIZER.normalize(record(json.dumps(event))).fields == seen.fields


def test_every_event_of_the_scenarios_has_a_view() -> None:
    for path in sorted(data_file("mordor").glob("*.jsonl.xz")):
        for event in islice(json_lines(f"mordor/{path.name}"), 300):
            assert NORMALIZER.normalize(record(json.dumps(event))).message
