"""From documents, lines and messages to OTLP: what is read of them, and that nothing of them changes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from detect.batch import Batch
from detect.inflate import inflate
from detect.otlp import count_records, decode
from detect.record import LogRecord
from detect.syslog_framing import SyslogFrame
from serve.errors import WireError
from serve.ingest.bulk import parse_body
from serve.ingest.document import NotADocument, document_record, nanoseconds_of, parse_document
from serve.ingest.elasticsearch_answers import bulk_answer, filtered
from serve.ingest.ndjson import parse_lines
from serve.ingest.otlp_conversion import SourceRecord, compressed, otlp_request
from serve.ingest.reception import Line, lines_of
from serve.ingest.syslog_records import syslog_record

AT = 1_765_349_748 * 10**9  # 2025-12-10T06:55:48Z


def decoded(*records: SourceRecord) -> list[LogRecord]:
    return decode(Batch(1, AT, "otlp_protobuf", otlp_request(records, "test", {"k": "v"})))


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("2025-12-10T06:55:48Z", AT),
        ("2025-12-10 06:55:48", AT),
        ("2025-12-10t07:55:48.000000001+01:00", AT + 1),
        ("2025-12-10T06:55:48,5+0000", AT + 500_000_000),
        (1_765_349_748, AT),
        (1_765_349_748_123, AT + 123_000_000),
        (1_765_349_748_123_456, AT + 123_456_000),
        (1_765_349_748_123_456_789, AT + 123_456_789),
        (1_765_349_748.5, AT + 500_000_000),
        ("1765349748.25", AT + 250_000_000),
        ("2025-13-10T06:55:48Z", 0),
        ("2025-12-10T06:55:48Z and more", 0),
        ("1969-12-31T23:59:59Z", 0),
        ("yesterday", 0),
        (-1, 0),
        (True, 0),
        (None, 0),
        ({}, 0),
        (float("inf"), 0),
        (float("nan"), 0),
        (10**40, 0),
    ],
)
def test_a_stated_time_is_read_in_any_usual_unit_or_not_at_all(stated: Any, expected: int) -> None:
    assert nanoseconds_of(stated) == expected


@given(st.integers() | st.floats() | st.text() | st.booleans() | st.none())
def test_whatever_a_time_holds_the_result_fits_the_field(stated: Any) -> None:
    assert 0 <= nanoseconds_of(stated) < 2**64


@pytest.mark.parametrize(
    ("document", "severity"),
    [
        ({"severity": "ERROR"}, (17, "ERROR")),
        ({"level": "warn"}, (13, "warn")),
        ({"log.level": "Critical"}, (18, "Critical")),
        ({"log": {"level": "debug"}}, (5, "debug")),
        ({"severity": 3, "level": "info"}, (9, "info")),
        ({"level": "loud"}, (0, "")),
        ({"log": "error"}, (0, "")),
        ({}, (0, "")),
    ],
)
def test_severity_is_taken_when_its_name_is_known(document: dict[str, Any], severity: tuple[int, str]) -> None:
    record = document_record(b"{}", document)
    assert (record.severity_number, record.severity_text) == severity


@pytest.mark.parametrize(
    ("document", "host", "attributes"),
    [
        ({"host": {"name": "h"}, "log": {"file": {"path": "/a"}}}, "h", {"log.file.path": "/a"}),
        ({"host.name": "h", "hostname": "other"}, "h", {}),
        ({"host": "h", "file": "/a", "source_type": "file"}, "h", {"log.file.path": "/a"}),
        ({"host": "h", "file": "/a"}, "h", {}),
        ({"host": {"name": 7}}, "", {}),
        ({"hostname": "x" * 300}, "", {}),
    ],
)
def test_host_and_file_are_found_under_the_names_that_shippers_use(
    document: dict[str, Any], host: str, attributes: dict[str, str]
) -> None:
    record = document_record(b"{}", document)
    assert (record.host, record.attributes) == (host, attributes)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"1", b"null", b'{"a": NaN}', b"\xff", b"[" * 100_000])
def test_what_is_not_one_json_object_is_said_to_be_none(text: bytes) -> None:
    with pytest.raises(NotADocument):
        parse_document(text)


@given(st.lists(st.tuples(st.binary(), st.sampled_from(["", "a", "b"])), max_size=20))
def test_every_text_comes_back_in_its_place(sent: list[tuple[bytes, str]]) -> None:
    records = decoded(*(SourceRecord(text, host=host) for text, host in sent))
    assert len(records) == len(sent)
    for record, (text, host) in zip(records, sent, strict=True):
        original = record.attributes.get("log.record.original", str(record.body or "").encode())
        assert original == text
        assert record.resource == ({"k": "v", "host.name": host} if host else {"k": "v"})


def test_records_of_one_host_share_their_resource_and_the_bytes_are_always_the_same() -> None:
    records = [SourceRecord(b"x", host="a"), SourceRecord(b"y", host="a"), SourceRecord(b"z", host="b")]
    payload = otlp_request(records, "test", {})
    assert payload == otlp_request(records, "test", {})
    assert len(ExportLogsServiceRequest.FromString(payload).resource_logs) == 2


@pytest.mark.parametrize("size", [0, 511, 512, 100_000])
def test_a_payload_is_compressed_when_that_pays(size: int) -> None:
    kept, encoding = compressed(b"x" * size)
    assert (encoding == "zstd") == (size >= 512)
    assert inflate(kept, encoding, size + 1) == b"x" * size


def test_lines_are_numbered_as_an_editor_does_and_keep_their_indentation() -> None:
    body = b"\xef\xbb\xbf{}\n\n  a \r\n \t \r\nb\n\xef\xbb\xbfc"
    assert list(lines_of(body)) == [Line(1, b"{}"), Line(3, b"  a "), Line(5, b"b"), Line(6, b"\xef\xbb\xbfc")]


@given(st.text(alphabet="ab \t\r\n").map(str.encode))
def test_lines_are_those_that_splitting_gives_without_the_blank_ones(body: bytes) -> None:
    expected = [
        Line(number, line.removesuffix(b"\r"))
        for number, line in enumerate(body.split(b"\n"), start=1)
        if line.strip(b" \t\r")
    ]
    assert list(lines_of(body)) == expected


@pytest.mark.parametrize(
    ("text", "severity", "facility", "host"),
    [
        ("<0>Dec 10 06:55:48 web-1 kernel: panic", (21, "emerg"), (0, "kern"), "web-1"),
        ("<191>1 2025-12-10T06:55:48Z db-1 app - - - text", (5, "debug"), (23, "local7"), "db-1"),
        ("<86>sshd[1]: no stamp", (9, "info"), (10, "authpriv"), "192.0.2.9"),
        ("<192>out of range", (0, ""), None, "192.0.2.9"),
        ("no priority", (0, ""), None, "192.0.2.9"),
        ("<165>1 - - - - - - nil values", (10, "notice"), (20, "local4"), "192.0.2.9"),
    ],
)
def test_the_header_of_a_syslog_message_is_read_beside_its_text(
    text: str, severity: tuple[int, str], facility: tuple[int, str] | None, host: str
) -> None:
    record = syslog_record(SyslogFrame(text.encode(), len(text)), "192.0.2.9", AT)
    assert (record.text.decode(), record.host) == (text, host)
    assert (record.severity_number, record.severity_text) == severity
    code, name = facility or (None, None)
    assert record.attributes.get("log.syslog.facility.code") == code
    assert record.attributes.get("log.syslog.facility.name") == name
    assert record.time_ns in (0, AT)


@given(st.binary(max_size=200), st.integers(0, 2**63))
def test_no_message_is_too_odd_to_be_a_record(text: bytes, received_ns: int) -> None:
    record = syslog_record(SyslogFrame(text, len(text)), "192.0.2.9", received_ns)
    assert decoded(record)[0].resource["host.name"]


_PIECES = st.sampled_from(
    [
        b'{"create": {"_index": "i"}}\n',
        b'{"index": {}}\n',
        b'{"delete": {"_id": 7}}\n',
        b'{"update": {"_id": "u"}}\n',
        b'{"message": "m"}\n',
        b"{\n",
        b"[]\n",
        b"\n",
        b"\r\n",
        b"\xff\n",
        b'{"index": {"_id": null, "_index": 1.5}}\n',
        b'{"a": "no end"}',
    ]
)
_BODIES = st.lists(_PIECES, max_size=12).map(b"".join) | st.binary(max_size=80)


@given(_BODIES, st.sampled_from(["", "of-the-path"]))
def test_a_bulk_body_is_read_or_refused_and_every_action_is_answered_once(body: bytes, index: str) -> None:
    try:
        parsed = parse_body(body, index)
    except WireError as error:
        assert error.status == 400
        return
    stored = [item for item in parsed.items if item.fault is None]
    assert [item.position for item in stored] == list(range(parsed.records))
    assert count_records("otlp_protobuf", inflate(parsed.payload, parsed.encoding, 10**6)) == parsed.records
    answer = bulk_answer(parsed.items, 1, 0, "")
    assert answer["errors"] == (len(stored) < len(parsed.items))
    assert len(answer["items"]) == len(parsed.items)


@given(_BODIES, st.booleans())
def test_every_line_is_a_record_or_rejected(body: bytes, documents: bool) -> None:
    parsed = parse_lines(body, documents=documents, received_ns=AT)
    assert parsed.records + len(parsed.rejected) == len(list(lines_of(body)))
    assert count_records("otlp_protobuf", inflate(parsed.payload, parsed.encoding, 10**6)) == parsed.records


def test_an_answers_parts_are_chosen_like_elasticsearch_does() -> None:
    body = {"took": 1, "items": [{"create": {"status": 201, "_id": "a"}}, {"index": {"status": 400}}]}
    assert filtered(body, "took") == {"took": 1}
    assert filtered(body, "items.*.status, nothing.here") == {
        "items": [{"create": {"status": 201}}, {"index": {"status": 400}}]
    }
    assert filtered(body, "items.create._id") == {"items": [{"create": {"_id": "a"}}]}
    assert filtered(body, "nothing") == {}
    for whole in ("", "-took", "**.status", "ite*"):
        assert filtered(body, whole) == body
