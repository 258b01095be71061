"""POST /ingest/logs: what is signed is stored, every other request is refused with a reason of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status

from actors.metrics import Metrics
from agent.contract import SigningKey, new_nonce, sign
from detect.record import TenantId
from serve.auth import Authenticator
from serve.errors import PROTOBUF, WireAnswer
from serve.ingest.envelope import INGEST_PATH, EnvelopeCheck
from serve.ingest.intake import Intake
from serve.ingest.otlp_http import OtlpHttpDoor
from serve.ingest.signed_http import SignedHttpDoor
from serve.peer import PeerIdentity, PeerSeal
from serve.signing_keyring import SigningKeyring
from serve.signing_masters import add_master, load_masters
from store.nonces import Nonce
from store.postgres import StorageUnavailable
from store.signing_keys import SigningKeyRow
from store.tenants import Principal
from tests.contract.memory_journal import MemoryJournal
from tests.contract.wire.lanes import request
from tests.unit.serve.test_ingest import BODY, LIMITS

TENANT = TenantId(UUID("11111111-1111-4111-8111-111111111111"))
OTHER = TenantId(UUID("22222222-2222-4222-8222-222222222222"))
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ROW = SigningKeyRow("a1b2c3d4e5f6", "web-1", 1, NOW, NOW - timedelta(days=1), None, None)


class Edge:
    """The signed door with everything around it, a clock that stands still, and a nonce store in memory."""

    def __init__(self, folder: Path) -> None:
        add_master(folder)
        self.folder = folder
        self.now = NOW
        self.rows = {(TENANT, ROW.key_id): ROW}
        self.spent: dict[tuple[UUID, str, str], datetime] = {}
        self.trouble: Exception | None = None
        self.journal = MemoryJournal()
        self.metrics = Metrics()
        self.seal = PeerSeal()
        self.lookups = 0
        authenticator = Authenticator(self._check, self._name_of, self._monotonic, 5.0, self.seal)
        keyring = SigningKeyring(self._fetch, folder, self._monotonic, 5.0)
        check = self.check = EnvelopeCheck(authenticator, keyring, self._spend, lambda: self.now, 300.0)
        otlp = OtlpHttpDoor(check, Intake(self.journal, lambda _: None, self.metrics), self.metrics, LIMITS, "signed")
        self.door = SignedHttpDoor(otlp, lambda: self.now)

    @property
    def key(self) -> SigningKey:
        return SigningKey(ROW.key_id, load_masters(self.folder).secret_text(1, TENANT, ROW.key_id))

    async def _check(self, key: str) -> Principal | None:
        tenants = {"good": TENANT, "other": OTHER}
        return Principal(tenants[key], key, frozenset({"ingest"}), admin=False) if key in tenants else None

    async def _name_of(self, tenant: TenantId) -> str:
        return "acme" if tenant == TENANT else "umbrella"

    async def _fetch(self, tenant: TenantId, key_id: str) -> SigningKeyRow | None:
        self.lookups += 1
        return self.rows.get((tenant, key_id))

    async def _spend(self, nonce: Nonce) -> bool:
        if self.trouble is not None:
            raise self.trouble
        first = nonce.identity not in self.spent
        self.spent[nonce.identity] = nonce.expires
        return first

    def _monotonic(self) -> float:
        return self.now.timestamp()

    def headers(self, body: bytes = BODY, key: SigningKey | None = None, **changes: object) -> dict[str, str]:
        parts: dict[str, object] = {
            "client_id": "acme",
            "idempotency_key": "batch-1",
            "timestamp_ms": int(self.now.timestamp() * 1000),
            "nonce": new_nonce(),
        }
        envelope = sign(key or self.key, method="POST", path=INGEST_PATH, body=body, **{**parts, **changes})  # type: ignore[arg-type]  # names of sign()
        lower = {name.lower(): value for name, value in envelope.headers.items()}
        return lower | {"authorization": "Bearer good", "content-type": PROTOBUF}

    async def post(self, headers: dict[str, str], body: bytes = BODY) -> WireAnswer:
        async def stream() -> AsyncIterator[bytes]:
            yield body

        return await self.door.handle(headers, stream())

    def reasons(self) -> dict[str, float]:
        samples = [sample for metric in self.metrics.registry.collect() for sample in metric.samples]
        name = "trustsoc_ingest_rejected_requests_total"
        return {sample.labels["reason"]: sample.value for sample in samples if sample.name == name}


@pytest.fixture
def edge(tmp_path: Path) -> Edge:
    return Edge(tmp_path)


def refusal(answer: WireAnswer) -> tuple[int, int, str]:
    assert answer.content_type == PROTOBUF
    status = Status.FromString(answer.body)
    return answer.status, status.code, status.message


async def test_a_signed_batch_is_stored_as_its_agents(edge: Edge) -> None:
    answer = await edge.post(edge.headers())
    assert (answer.status, answer.headers["X-Batch-Seq"], answer.headers["X-Batch-Duplicate"]) == (200, "1", "false")
    assert answer.headers["X-Server-Time"] == str(int(NOW.timestamp() * 1000))
    [row] = edge.journal.rows
    assert (row.tenant, row.agent, row.idempotency_key, row.payload) == (TENANT, "web-1", b"key:batch-1", BODY)
    [expires] = edge.spent.values()
    assert expires >= NOW + timedelta(seconds=300), "a nonce is kept while its timestamp could still be taken"
    assert edge.metrics.registry.get_sample_value("trustsoc_ingest_door_records_total", {"door": "signed"}) == 2


async def test_a_retry_with_a_new_nonce_and_the_same_key_is_a_duplicate(edge: Edge) -> None:
    assert (await edge.post(edge.headers())).status == 200
    edge.now += timedelta(seconds=40)
    again = await edge.post(edge.headers())
    assert (again.status, again.headers["X-Batch-Duplicate"]) == (200, "true")
    assert len(edge.journal.rows) == 1


async def test_the_same_request_again_is_refused_and_says_how_to_go_on(edge: Edge) -> None:
    headers = edge.headers()
    assert (await edge.post(headers)).status == 200
    status, code, message = refusal(await edge.post(headers))
    assert (status, code) == (409, Code.ALREADY_EXISTS)
    assert "new nonce and the same X-Idempotency-Key" in message
    assert edge.reasons() == {"replayed_nonce": 1}


@pytest.mark.parametrize("seconds", [-301, -86400, 301, 86400])
async def test_a_wrong_clock_is_told_the_time_and_may_come_again(edge: Edge, seconds: int) -> None:
    stated = int((NOW + timedelta(seconds=seconds)).timestamp() * 1000)
    answer = await edge.post(edge.headers(timestamp_ms=stated))
    status, code, message = refusal(answer)
    assert (status, code) == (503, Code.UNAVAILABLE)
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["X-Server-Time"] == str(int(NOW.timestamp() * 1000))
    assert f"{abs(seconds)} s {'ahead of' if seconds > 0 else 'behind'}" in message
    assert edge.reasons() == {"clock_skew": 1}
    corrected = edge.headers(timestamp_ms=int(answer.headers["X-Server-Time"]))
    assert (await edge.post(corrected)).status == 200


@pytest.mark.parametrize("seconds", [-300, 0, 300])
async def test_a_clock_within_the_window_is_good_enough(edge: Edge, seconds: int) -> None:
    stated = int((NOW + timedelta(seconds=seconds)).timestamp() * 1000)
    assert (await edge.post(edge.headers(timestamp_ms=stated))).status == 200


@pytest.mark.parametrize(
    ("changes", "status", "reason", "message"),
    [
        ({"x-signature": "v1=" + "0" * 64}, 401, "bad_signature", "X-Signature"),
        ({"x-payload-hash": "0" * 64}, 400, "digest_mismatch", "X-Payload-Hash"),
        ({"x-nonce": "m" * 20}, 401, "bad_signature", "X-Signature"),
        ({"x-idempotency-key": "batch-2"}, 401, "bad_signature", "X-Signature"),
        ({"x-client-id": str(TENANT)}, 401, "bad_signature", "X-Signature"),
        ({"x-client-id": str(OTHER)}, 403, "forbidden", "another tenant"),
        ({"x-key-id": "ffffffffffff"}, 401, "signing_key_unknown", "X-Key-Id"),
        ({"x-nonce": "short"}, 400, "envelope_malformed", "X-Nonce"),
        ({"x-nonce": ""}, 401, "envelope_missing", "X-Nonce"),
        ({"x-signature": ""}, 401, "envelope_missing", "X-Signature"),
        ({"authorization": "Bearer nobody"}, 401, "unauthenticated", "API key"),
        ({"authorization": ""}, 401, "unauthenticated", "API key"),
        ({"authorization": "Bearer other"}, 403, "forbidden", "another tenant"),
        ({"content-type": "text/plain"}, 415, "unsupported_media", "Content-Type"),
    ],
)
async def test_every_refusal_has_a_reason_of_its_own_and_stores_nothing(
    edge: Edge, changes: dict[str, str], status: int, reason: str, message: str
) -> None:
    answered, _, text = refusal(await edge.post(edge.headers() | changes))
    assert answered == status
    assert message in text
    assert edge.reasons() == {reason: 1}
    assert edge.journal.rows == []
    assert edge.spent == {}, "nobody spends a nonce without a good signature"


async def test_another_body_than_the_signed_one_is_refused(edge: Edge) -> None:
    status, _, message = refusal(await edge.post(edge.headers(), request("forged").SerializeToString()))
    assert (status, edge.reasons()) == (400, {"digest_mismatch": 1})
    assert "X-Payload-Hash" in message
    assert edge.spent == {}


async def test_a_key_of_another_tenant_is_unknown_even_to_one_who_knows_its_secret(edge: Edge) -> None:
    headers = edge.headers(client_id="umbrella") | {"authorization": "Bearer other"}
    assert refusal(await edge.post(headers))[0] == 401
    assert edge.reasons() == {"signing_key_unknown": 1}


@pytest.mark.parametrize(
    ("row", "status", "reason"),
    [
        (replace(ROW, revoked_at=NOW), 401, "signing_key_revoked"),
        (replace(ROW, expires_at=NOW), 401, "signing_key_expired"),
        (replace(ROW, not_before=NOW + timedelta(seconds=9)), 503, "signing_key_not_yet_valid"),
        (replace(ROW, master=2), 503, "signing_unavailable"),
    ],
)
async def test_keys_that_are_not_valid_now(edge: Edge, row: SigningKeyRow, status: int, reason: str) -> None:
    edge.rows[TENANT, ROW.key_id] = row
    answer = await edge.post(edge.headers())
    assert (answer.status, edge.reasons()) == (status, {reason: 1})
    assert ("Retry-After" in answer.headers) == (status == 503)


async def test_old_and_new_key_both_verify_while_they_overlap(edge: Edge) -> None:
    new = replace(ROW, key_id="0123456789ab", master=2)
    edge.rows[TENANT, new.key_id] = new
    edge.rows[TENANT, ROW.key_id] = replace(ROW, expires_at=NOW + timedelta(hours=1))
    add_master(edge.folder)
    new_key = SigningKey(new.key_id, load_masters(edge.folder).secret_text(2, TENANT, new.key_id))
    assert (await edge.post(edge.headers())).status == 200
    duplicate = await edge.post(edge.headers(key=new_key))
    assert duplicate.headers["X-Batch-Duplicate"] == "true", "a retry with the agent's new key is the same batch"
    edge.now += timedelta(hours=1)
    assert (await edge.post(edge.headers(key=new_key))).status == 200
    assert (await edge.post(edge.headers())).status == 401


async def test_a_revoked_key_stops_working_within_the_cache_time(edge: Edge) -> None:
    assert (await edge.post(edge.headers())).status == 200
    edge.rows[TENANT, ROW.key_id] = replace(ROW, revoked_at=NOW)
    edge.now += timedelta(seconds=4)
    assert (await edge.post(edge.headers())).status == 200
    assert edge.lookups == 1
    edge.now += timedelta(seconds=2)
    assert (await edge.post(edge.headers())).status == 401


async def test_trouble_with_the_nonce_store_may_pass(edge: Edge) -> None:
    edge.trouble = StorageUnavailable("away", 2.0)
    answer = await edge.post(edge.headers())
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    edge.trouble = None
    assert (await edge.post(edge.headers())).status == 200


async def test_the_certificate_must_be_of_the_agent_that_signs(edge: Edge) -> None:
    def with_peer(tenant: TenantId, agent: str) -> dict[str, str]:
        name, value = edge.seal.header(PeerIdentity(tenant, agent))
        return edge.headers() | {name.decode(): value.decode()}

    assert (await edge.post(with_peer(TENANT, "web-1"))).status == 200
    assert (await edge.post(with_peer(TENANT, "web-1") | {"authorization": ""})).status == 200
    assert (await edge.post(with_peer(TENANT, "web-2"))).status == 403
    assert (await edge.post(with_peer(OTHER, "web-1"))).status == 403
    assert edge.reasons() == {"certificate_mismatch": 2}
