"""POST /ingest/ndjson as a specification of the wire."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest
import zstandard

from store.postgres import StorageUnavailable
from tests.contract.doors.edge import TENANT, DoorsEdge

NDJSON = "application/x-ndjson"
DOCUMENT = {
    "@timestamp": "2025-12-10T06:55:48.5Z",
    "log": {"level": "warning"},
    "message": "one",
    "host": {"name": "h"},
}


def lines(*documents: Any) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


async def post(edge: DoorsEdge, body: bytes, **headers: str) -> httpx.Response:
    return await edge.post("/ingest/ndjson", body, **({"content_type": NDJSON} | headers))


async def test_every_line_is_a_record_of_one_batch_with_its_text_untouched(edge: DoorsEdge) -> None:
    text = b'{"message":  "spaces stay" , "n": 1}'
    answer = await post(edge, lines(DOCUMENT) + text + b"\r\n\n")
    assert (answer.status_code, answer.json()) == (200, {"accepted": 2, "rejected_count": 0, "rejected": []})
    assert (answer.headers["x-batch-seq"], answer.headers["x-batch-duplicate"]) == ("1", "false")
    (row,) = edge.journal.rows
    assert (row.tenant, row.agent, row.records, row.kind) == (TENANT, "key-good", 2, "otlp_protobuf")
    assert edge.journal.bodies() == [json.dumps(DOCUMENT), text.decode()]
    assert edge.hints == [TENANT]


async def test_time_severity_and_host_are_where_otlp_has_them(edge: DoorsEdge) -> None:
    await post(edge, lines(DOCUMENT, {"message": "says nothing of itself"}))
    first, second = edge.journal.records()
    assert first.stated_ns == 1_765_349_748_500_000_000
    assert (first.severity_number, first.severity_text) == (13, "warning")
    assert first.resource == {"host.name": "h"}
    assert (second.stated_ns, second.severity_number, second.resource) == (0, 0, {})
    assert second.time_mark == "unset"
    assert first.scope == "trustsoc.ndjson"


async def test_lines_that_cannot_be_stored_are_told_by_number_and_counted(edge: DoorsEdge) -> None:
    answer = await post(edge, b'{"a": 1}\n\nnot json\n[1]\n{"b": 2}\n')
    told = answer.json()
    assert (answer.status_code, told["accepted"], told["rejected_count"]) == (200, 2, 2)
    assert [entry["line"] for entry in told["rejected"]] == [3, 4]
    assert "not valid JSON" in told["rejected"][0]["reason"]
    assert edge.journal.bodies() == ['{"a": 1}', '{"b": 2}']
    assert edge.counted("ingest_door_rejected_records_total", door="ndjson", reason="malformed") == 2
    assert edge.counted("ingest_door_records_total", door="ndjson") == 2


async def test_the_answer_stays_small_and_the_count_true(edge: DoorsEdge) -> None:
    answer = await post(edge, b'{"a": 1}\n' + b"nonsense\n" * 5000)
    assert len(answer.content) < 4096
    told = answer.json()
    assert told["rejected_count"] == 5000
    assert 10 < len(told["rejected"]) < 100


async def test_nothing_that_can_be_stored_is_a_final_refusal(edge: DoorsEdge) -> None:
    answer = await post(edge, b"nonsense\nmore\n")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert "none of the 2 lines" in answer.json()["detail"]
    assert edge.journal.rows == []


@pytest.mark.parametrize("body", [b"", b"\n \n\r\n"])
async def test_an_empty_body_is_no_error(edge: DoorsEdge, body: bytes) -> None:
    answer = await post(edge, body)
    assert (answer.status_code, answer.json()["accepted"]) == (200, 0)
    assert edge.journal.rows == []


async def test_plain_text_lines_are_records_with_the_time_they_state(edge: DoorsEdge) -> None:
    line = "Dec 10 06:55:48 web-1 sshd[24200]: Failed password for root from 203.0.113.7 port 38926 ssh2"
    answer = await post(edge, f"{line}\n  indented\n".encode() + b"caf\xe9\n", content_type="text/plain; charset=utf-8")
    assert answer.json()["accepted"] == 3
    first, second, third = edge.journal.normalized()
    assert (first.logsource.service, first.entity("ip")) == ("sshd", "203.0.113.7")
    assert first.record.stated_ns % (86400 * 10**9) == (6 * 3600 + 55 * 60 + 48) * 10**9
    assert second.record.body == "  indented"
    assert (third.record.body, third.record.attributes["log.record.original"]) == ("caf\ufffd", b"caf\xe9")


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("zstd", zstandard.ZstdCompressor().compress)]
)
async def test_a_repeat_is_the_same_batch_however_it_is_compressed(
    edge: DoorsEdge, encoding: str, compress: Any
) -> None:
    body = lines(DOCUMENT)
    first = await post(edge, body)
    second = await post(edge, compress(body), content_encoding=encoding)
    assert (second.status_code, second.json()) == (200, first.json())
    assert (second.headers["x-batch-seq"], second.headers["x-batch-duplicate"]) == ("1", "true")
    assert len(edge.journal.rows) == 1


async def test_the_senders_own_key_tells_batches_apart(edge: DoorsEdge) -> None:
    body = lines(DOCUMENT)
    for key, seq, duplicate in (("a", "1", "false"), ("b", "2", "false"), ("a", "1", "true")):
        answer = await post(edge, body, x_idempotency_key=key)
        assert (answer.headers["x-batch-seq"], answer.headers["x-batch-duplicate"]) == (seq, duplicate)
    assert (await post(edge, lines({"other": 1}), x_idempotency_key="a")).status_code == 400


async def test_trouble_of_ours_is_retryable_and_stores_nothing(edge: DoorsEdge) -> None:
    edge.journal.trouble = StorageUnavailable("down", 3.0)
    answer = await post(edge, lines(DOCUMENT))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    edge.journal.trouble = None
    assert (await post(edge, lines(DOCUMENT))).headers["x-batch-duplicate"] == "false"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_type": "application/json"}, 415),
        ({"content_encoding": "br"}, 415),
        ({"content_encoding": "gzip"}, 400),
        ({"authorization": "Bearer reader"}, 403),
        ({"authorization": "Bearer unknown"}, 401),
        ({"x_client_id": "somebody else"}, 403),
    ],
)
async def test_refusals_are_problem_documents_and_counted(
    edge: DoorsEdge, headers: dict[str, str], status: int
) -> None:
    answer = await post(edge, lines(DOCUMENT), **headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert edge.counted("ingest_door_requests_total", door="ndjson", status=str(status)) == 1
    assert edge.journal.rows == []


async def test_sizes_are_limited_as_sent_as_inflated_and_by_count(edge: DoorsEdge) -> None:
    assert (await post(edge, b"x" * 200_001)).status_code == 413
    assert (await post(edge, gzip.compress(b" " * 2_000_001), content_encoding="gzip")).status_code == 413
    many = gzip.compress(b"{}\n" * 100_001)
    assert (await post(edge, many, content_encoding="gzip")).status_code == 413
    assert edge.journal.rows == []
