"""Elasticsearch's `_bulk` as a specification: what senders that write to Elasticsearch get from us."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import httpx
import pytest

from store.journal import Overloaded
from store.postgres import StorageUnavailable
from tests.contract.doors.edge import DoorsEdge

NDJSON = {"content_type": "application/x-ndjson"}
CREATE = {"create": {"_index": "logs-web"}}


def body(*values: Any) -> bytes:
    return b"".join((value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n" for value in values)


async def bulk(edge: DoorsEdge, sent: bytes, path: str = "/_bulk", **headers: str) -> httpx.Response:
    answer = await edge.post(path, sent, **(NDJSON | headers))
    assert answer.headers["x-elastic-product"] == "Elasticsearch"
    assert answer.headers["content-type"] == "application/json"
    return answer


async def test_documents_are_records_and_every_item_is_answered(edge: DoorsEdge) -> None:
    document = {"@timestamp": "2025-12-10T06:55:48Z", "message": "one", "log.level": "error", "host": {"name": "h"}}
    answer = await bulk(edge, body(CREATE, document, {"index": {"_index": "i", "_id": "mine"}}, {"message": "two"}))
    told = answer.json()
    assert (answer.status_code, told["errors"]) == (200, False)
    first, second = told["items"]
    assert first["create"]["status"] == second["index"]["status"] == 201
    assert (first["create"]["_index"], first["create"]["_id"], first["create"]["_seq_no"]) == ("logs-web", "1-0", 1)
    assert (second["index"]["_id"], second["index"]["result"]) == ("mine", "created")
    one, two = edge.journal.records()
    assert (one.body, one.stated_ns, one.severity_number) == (json.dumps(document), 1_765_349_748 * 10**9, 17)
    assert (one.resource, one.attributes) == ({"host.name": "h"}, {"elasticsearch.index": "logs-web"})
    assert two.attributes == {"elasticsearch.index": "i", "log.record.uid": "mine"}


async def test_what_cannot_be_stored_fails_alone(edge: DoorsEdge) -> None:
    sent = body(
        *({"update": {"_index": "i", "_id": "1"}}, {"doc": {"a": 1}}),
        {"delete": {"_index": "i", "_id": "2"}},
        *(CREATE, b"{broken"),
        *(CREATE, [1]),
        *(CREATE, {"message": "good"}),
    )
    told = (await bulk(edge, sent)).json()
    assert told["errors"] is True
    statuses = [next(iter(item.values()))["status"] for item in told["items"]]
    assert statuses == [400, 400, 400, 400, 201]
    assert "append-only" in told["items"][0]["update"]["error"]["reason"]
    assert told["items"][2]["create"]["error"]["type"] == "mapper_parsing_exception"
    assert told["items"][4]["create"]["_id"] == "1-0"
    assert edge.journal.bodies() == ['{"message": "good"}']
    assert edge.counted("ingest_door_rejected_records_total", door="bulk", reason="unacceptable") == 4


async def test_only_bad_items_store_nothing_and_are_still_answered_one_by_one(edge: DoorsEdge) -> None:
    told = (await bulk(edge, body({"delete": {"_id": "1"}}))).json()
    assert (told["errors"], len(told["items"])) == (True, 1)
    assert edge.journal.rows == []


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\n\n",
        b"nonsense\n",
        body({"upsert": {}}, {"a": 1}),
        body({"create": {}, "index": {}}, {"a": 1}),
        body({"create": []}, {"a": 1}),
        body({"create": {"_id": ["x"]}}, {"a": 1}),
        body(CREATE, {"a": 1}, CREATE),
    ],
)
async def test_a_request_that_cannot_be_read_is_refused_whole(edge: DoorsEdge, sent: bytes) -> None:
    answer = await bulk(edge, sent)
    error = answer.json()
    assert (answer.status_code, error["status"]) == (400, 400)
    assert error["error"]["root_cause"][0]["type"] == error["error"]["type"] == "illegal_argument_exception"
    assert edge.journal.rows == []


async def test_the_index_of_the_path_is_the_default_and_part_of_the_identity(edge: DoorsEdge) -> None:
    sent = body({"index": {}}, {"a": 1})
    first = (await bulk(edge, sent, "/left/_bulk")).json()["items"][0]["index"]
    second = (await bulk(edge, sent, "/right/_bulk")).json()["items"][0]["index"]
    assert [(item["_index"], item["_id"]) for item in (first, second)] == [("left", "1-0"), ("right", "2-0")]


async def test_the_same_body_again_gets_the_same_answer(edge: DoorsEdge) -> None:
    sent = body(CREATE, {"a": 1}, CREATE, b"{", CREATE, {"b": 2})
    first = (await bulk(edge, gzip.compress(sent, mtime=1), content_encoding="gzip")).json()
    second = (await bulk(edge, gzip.compress(sent, mtime=2), content_encoding="gzip")).json()
    assert first["items"] == second["items"]
    assert first["errors"] == second["errors"]
    assert len(edge.journal.rows) == 1
    assert edge.counted("ingest_duplicate_records_total") == 2


@pytest.mark.parametrize("trouble", [StorageUnavailable("down", 2.0), Overloaded(2.0)])
async def test_trouble_of_ours_is_an_answer_to_the_whole_request(edge: DoorsEdge, trouble: Exception) -> None:
    edge.journal.trouble = trouble
    answer = await bulk(edge, body(CREATE, {"a": 1}))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["error"]["type"] == "unavailable_shards_exception"
    edge.journal.trouble = None
    assert (await bulk(edge, body(CREATE, {"a": 1}))).json()["errors"] is False


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer good", 200),
        (f"Basic {_base64('anybody:good')}", 200),
        (f"ApiKey {_base64('some-id:good')}", 200),
        (f"ApiKey {_base64('good')}", 200),
        (f"Basic {_base64('good')}", 401),
        (f"Basic {_base64('anybody:wrong')}", 401),
        ("Basic not base64!", 401),
        ("ApiKey wrong", 401),
        (f"ApiKey {_base64('id:reader')}", 403),
        ("", 401),
    ],
)
async def test_the_key_may_come_in_any_form_that_senders_know(edge: DoorsEdge, authorization: str, status: int) -> None:
    answer = await bulk(edge, body(CREATE, {"a": 1}), authorization=authorization)
    assert answer.status_code == status
    if status == 401:
        assert "ApiKey" in answer.headers["www-authenticate"]
        assert answer.json()["error"]["type"] == "security_exception"
    assert (await edge.client.get("/", headers={"Authorization": authorization})).status_code == status


async def test_an_answer_can_be_cut_down_to_what_the_sender_reads(edge: DoorsEdge) -> None:
    sent = body(CREATE, {"a": 1}, CREATE, b"{")
    told = (await bulk(edge, sent, "/_bulk?filter_path=errors%2Citems.%2A.error.type%2Citems.%2A.status")).json()
    assert told == {
        "errors": True,
        "items": [
            {"create": {"status": 201}},
            {"create": {"status": 400, "error": {"type": "mapper_parsing_exception"}}},
        ],
    }
    whole = (await bulk(edge, sent, "/_bulk?filter_path=-took")).json()
    assert "took" in whole


async def test_senders_find_what_they_ask_for_before_they_send(edge: DoorsEdge) -> None:
    about = await edge.client.get("/")
    assert about.headers["x-elastic-product"] == "Elasticsearch"
    assert about.json()["version"]["number"] == "8.19.0"
    head = await edge.client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    assert (await edge.client.get("/_license")).json()["license"]["status"] == "active"
    assert (await edge.client.get("/_cluster/health")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/_index_template/filebeat"),
        ("HEAD", "/_index_template/logstash"),
        ("GET", "/_ilm/policy/x"),
        ("GET", "/_nodes/http"),
        ("POST", "/_search"),
    ],
)
async def test_what_does_not_exist_is_said_so_in_elasticsearchs_form(edge: DoorsEdge, method: str, path: str) -> None:
    answer = await edge.client.request(method, path)
    assert (answer.status_code, answer.headers["x-elastic-product"]) == (404, "Elasticsearch")
    if method != "HEAD":
        assert "Turn templates" in answer.json()["error"]["reason"]


async def test_other_content_types_and_too_large_bodies_are_refused(edge: DoorsEdge) -> None:
    assert (await bulk(edge, body(CREATE, {}), content_type="text/html")).status_code == 415
    answer = await bulk(edge, b"x" * 200_001)
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "content_too_long_exception")
    assert (await bulk(edge, body(CREATE, {}), "/" + "i" * 600 + "/_bulk")).status_code == 400
