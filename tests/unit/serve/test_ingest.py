"""POST /v1/logs as a specification of the wire: status, body in kind, counters, and nothing else disturbed."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceResponse,
)

from actors.metrics import Metrics
from detect.record import TenantId
from serve.auth import Authenticator
from serve.errors import JSON, PROTOBUF, WireAnswer
from serve.ingest.intake import Intake
from serve.ingest.otlp_http import IngestLimits, OtlpHttpDoor
from serve.ingest.senders import KeyCheck
from store.journal import Overloaded
from store.postgres import StorageUnavailable
from store.tenants import KeyRefused, Principal
from tests.contract.memory_journal import MemoryJournal
from tests.contract.wire.lanes import request

TENANT = TenantId(UUID("11111111-1111-4111-8111-111111111111"))
OTHER = "22222222-2222-4222-8222-222222222222"
LIMITS = IngestLimits(compressed=200_000, decompressed=2_000_000)


class Edge:
    """The handler with everything around it, and what it told the detectors."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.hints: list[TenantId] = []
        self.metrics = Metrics()
        self.now = 100.0
        self.authenticator = Authenticator(self._check, self._name_of, lambda: self.now, keep_s=5.0)
        self.ingest = OtlpHttpDoor(
            KeyCheck(self.authenticator),
            Intake(self.journal, self.hints.append, self.metrics),
            self.metrics,
            LIMITS,
        )

    async def _check(self, key: str) -> Principal | None:
        match key:
            case "good":
                return Principal(TENANT, "agent-1", frozenset({"ingest"}), admin=False)
            case "reader":
                return Principal(TENANT, "agent-2", frozenset({"read"}), admin=False)
            case "admin":
                return Principal(None, "boss", frozenset(), admin=True)
            case "revoked":
                raise KeyRefused("revoked", "agent-3")
            case _:
                return None

    async def _name_of(self, tenant: TenantId) -> str:
        assert tenant == TENANT
        return "acme"

    async def post(self, body: bytes, /, key: str = "good", kind: str = PROTOBUF, **headers: str) -> WireAnswer:
        async def stream() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 1000):
                yield body[start : start + 1000]

        sent = {"content-type": kind, "authorization": f"Bearer {key}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.ingest.handle(sent, stream())


@pytest.fixture
def edge() -> Edge:
    return Edge()


BODY = request("one", "two").SerializeToString()
JSON_BODY = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": "one"}}]}]}]}).encode()


def status_of(answer: WireAnswer) -> Status:
    assert answer.content_type == PROTOBUF
    return Status.FromString(answer.body)


async def test_a_batch_is_one_journal_row_before_it_is_acknowledged(edge: Edge) -> None:
    answer = await edge.post(BODY)
    assert (answer.status, answer.content_type) == (200, PROTOBUF)
    assert not ExportLogsServiceResponse.FromString(answer.body).HasField("partial_success")
    assert answer.headers == {"X-Batch-Seq": "1", "X-Batch-Duplicate": "false"}
    [row] = edge.journal.rows
    assert (row.tenant, row.agent, row.kind, row.encoding, row.records) == (
        TENANT,
        "agent-1",
        "otlp_protobuf",
        "identity",
        2,
    )
    assert row.payload == BODY
    assert row.digest == hashlib.sha256(BODY).digest()
    assert edge.hints == [TENANT]


async def test_json_in_json_out(edge: Edge) -> None:
    answer = await edge.post(JSON_BODY, kind="application/json; charset=utf-8")
    assert (answer.status, answer.content_type, answer.body) == (200, JSON, b"{}")
    assert edge.journal.rows[0].kind == "otlp_json"


async def test_gzip_is_kept_as_received(edge: Edge) -> None:
    packed = gzip.compress(BODY)
    assert (await edge.post(packed, content_encoding="gzip")).status == 200
    assert edge.journal.rows[0].payload == packed
    assert edge.journal.rows[0].encoding == "gzip"


async def test_an_empty_request_is_a_success_that_stores_nothing(edge: Edge) -> None:
    assert (await edge.post(b"")).status == 200
    assert (await edge.post(b"{}", kind=JSON)).body == b"{}"
    assert edge.journal.rows == []


async def test_the_same_content_again_is_a_duplicate_with_the_same_seq(edge: Edge) -> None:
    first, again = await edge.post(BODY), await edge.post(BODY)
    assert again.status == 200
    assert again.headers == {"X-Batch-Seq": first.headers["X-Batch-Seq"], "X-Batch-Duplicate": "true"}
    assert len(edge.journal.rows) == 1
    assert b"trustsoc_ingest_duplicate_records_total 2.0" in edge.metrics.render()


async def test_an_idempotency_key_stands_for_one_body(edge: Edge) -> None:
    other = request("three").SerializeToString()
    assert (await edge.post(BODY, x_idempotency_key="batch-7")).status == 200
    assert (await edge.post(BODY, x_idempotency_key="batch-7")).headers["X-Batch-Duplicate"] == "true"
    answer = await edge.post(other, x_idempotency_key="batch-7")
    assert answer.status == 400
    assert "X-Idempotency-Key was used for another body" in status_of(answer).message
    assert len(edge.journal.rows) == 1


@pytest.mark.parametrize(
    ("key", "status", "code", "message"),
    [
        ("", 401, Code.UNAUTHENTICATED, "no API key"),
        ("unknown", 401, Code.UNAUTHENTICATED, "the API key is unknown"),
        ("revoked", 401, Code.UNAUTHENTICATED, "the API key is revoked"),
        ("reader", 403, Code.PERMISSION_DENIED, "lacks the scope 'ingest'"),
        ("admin", 403, Code.PERMISSION_DENIED, "administrator"),
    ],
)
async def test_keys_that_may_not_send(edge: Edge, key: str, status: int, code: int, message: str) -> None:
    answer = await edge.post(BODY, key=key)
    assert answer.status == status
    assert status_of(answer).code == code
    assert message in status_of(answer).message
    assert edge.journal.rows == []


async def test_a_header_may_repeat_the_key_s_tenant_but_not_name_another(edge: Edge) -> None:
    assert (await edge.post(BODY, x_client_id=str(TENANT))).status == 200
    assert (await edge.post(BODY, x_client_id="acme")).status == 200
    answer = await edge.post(request("else").SerializeToString(), x_client_id=OTHER)
    assert answer.status == 403
    assert "another tenant" in status_of(answer).message
    assert len(edge.journal.rows) == 1


async def test_a_key_revoked_elsewhere_stops_working_within_the_cache_time(edge: Edge) -> None:
    assert (await edge.post(BODY)).status == 200

    async def refuse(_: str) -> Principal | None:
        raise KeyRefused("revoked", "agent-1")

    edge.authenticator._check = refuse
    assert (await edge.post(request("a").SerializeToString())).status == 200
    edge.now += 5.1
    assert (await edge.post(request("b").SerializeToString())).status == 401


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"\xff\xff\xff", {}, 400, "protobuf"),
        (b"{", {"kind": JSON}, 400, "JSON"),
        (b"[]", {"kind": JSON}, 400, ""),
        (BODY, {"kind": "text/plain"}, 415, "application/x-protobuf"),
        (BODY, {"content_encoding": "br"}, 415, "gzip"),
        (b"plain", {"content_encoding": "gzip"}, 400, "gzip"),
        (gzip.compress(b"\0" * 3_000_000), {"content_encoding": "gzip"}, 413, "decompressed"),
        (b"x" * 200_001, {}, 413, "compressed"),
        (BODY, {"content_length": "999999999"}, 413, "compressed"),
        (BODY, {"x_idempotency_key": "k" * 121}, 400, "X-Idempotency-Key"),
    ],
)
async def test_bad_input_has_a_final_answer_in_kind(
    edge: Edge, body: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    answer = await edge.post(body, **headers)
    assert answer.status == status
    if headers.get("kind") == JSON:
        shown = json.loads(answer.body)
        assert answer.content_type == JSON
        assert set(shown) == {"code", "message", "details"}
        assert message in shown["message"]
    else:
        assert message in status_of(answer).message
    assert edge.journal.rows == []
    assert edge.hints == []
    assert (await edge.post(BODY)).status == 200


@pytest.mark.parametrize("trouble", [Overloaded(1.0), StorageUnavailable("disk full", 30.0)])
async def test_trouble_on_this_side_is_503_with_retry_after(edge: Edge, trouble: Exception) -> None:
    edge.journal.trouble = trouble
    answer = await edge.post(BODY)
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert status_of(answer).code == Code.UNAVAILABLE
    edge.journal.trouble = None
    assert (await edge.post(BODY)).headers["X-Batch-Duplicate"] == "false"


async def test_every_refused_request_is_counted_with_its_reason(edge: Edge) -> None:
    await edge.post(b"\xff", key="good")
    await edge.post(BODY, key="nobody")
    rendered = edge.metrics.render()
    assert b'trustsoc_ingest_rejected_requests_total{reason="malformed"} 1.0' in rendered
    assert b'trustsoc_ingest_rejected_requests_total{reason="unauthenticated"} 1.0' in rendered
