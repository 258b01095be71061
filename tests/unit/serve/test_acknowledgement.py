"""What every door tells a sender beside its protocol's own answer, and what goes into the sender's books."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from actors.metrics import Metrics
from agent.contract import new_nonce, sign
from detect.record import TenantId
from serve.auth import Authenticator
from serve.errors import PROTOBUF, WireAnswer, WireError
from serve.ingest.balance import LEDGER_PATH
from serve.ingest.envelope import INGEST_PATH, SignedSender
from serve.ingest.intake import Intake, Sender
from serve.ingest.otlp_grpc import GrpcAnswer, OtlpGrpcDoor
from serve.ingest.otlp_http import OtlpHttpDoor
from serve.ingest.receipts import ReceiptSigner, verify_receipt
from serve.ingest.senders import KeyCheck
from store.tenants import Principal
from tests.contract.memory_journal import MemoryJournal
from tests.unit.serve.test_envelope import NOW, ROW
from tests.unit.serve.test_envelope import Edge as SignedEdge
from tests.unit.serve.test_ingest import BODY, LIMITS, TENANT
from tests.unit.serve.test_receipts import EXAMPLE_KEY

SIGNER = ReceiptSigner([EXAMPLE_KEY])


class Refused:
    """Keeps what would go into the books."""

    def __init__(self) -> None:
        self.kept: list[tuple[Sender, str, bool, int]] = []

    def add(self, sender: Sender, reason: str, *, retryable: bool, requests: int = 1, records: int = 0) -> None:
        self.kept.append((sender, reason, retryable, records))


class Doors:
    """OTLP over HTTP and gRPC around one journal and one signer."""

    def __init__(self) -> None:
        self.journal, self.refused, metrics = MemoryJournal(), Refused(), Metrics()
        senders = KeyCheck(Authenticator(self._check, self._name_of, lambda: 1.0, keep_s=5.0))
        intake = Intake(self.journal, lambda _: None, metrics, SIGNER, self.refused)
        self._http = OtlpHttpDoor(senders, intake, metrics, LIMITS)
        self._grpc = OtlpGrpcDoor(senders, intake, metrics, LIMITS)

    async def _check(self, key: str) -> Principal | None:
        return Principal(TENANT, "agent-1", frozenset({"ingest"}), admin=False) if key == "good" else None

    async def _name_of(self, _: TenantId) -> str:
        return "acme"

    async def http(self, body: bytes, key: str = "good", **headers: str) -> WireAnswer:
        async def stream() -> AsyncIterator[bytes]:
            yield body

        sent = {"content-type": PROTOBUF, "authorization": f"Bearer {key}"}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self._http.handle(sent | named, stream())

    async def grpc(self, body: bytes, **metadata: str) -> GrpcAnswer:
        async def read() -> bytes:
            return body

        named = {name.replace("_", "-"): value for name, value in metadata.items()}
        return await self._grpc.handle({"authorization": "Bearer good"} | named, read)


@pytest.fixture
def doors() -> Doors:
    return Doors()


async def test_every_acknowledgement_has_a_receipt_and_a_repeat_has_the_same_by_any_door(doors: Doors) -> None:
    over_http = await doors.http(BODY, x_idempotency_key="k")
    over_grpc = dict((await doors.grpc(BODY, x_idempotency_key="k")).trailing)
    assert over_grpc["x-batch-duplicate"] == "true"
    assert over_grpc["x-receipt"] == over_http.headers["X-Receipt"]
    receipt = verify_receipt(over_http.headers["X-Receipt"], SIGNER.jwks())
    assert (receipt.seq, receipt.records, receipt.digest) == (1, 2, hashlib.sha256(BODY).hexdigest())


async def test_the_run_is_stored_with_the_batch_and_must_be_a_name(doors: Doors) -> None:
    await doors.http(BODY, x_agent_run="run-1")
    await doors.http(BODY + BODY)
    assert [row.run for row in doors.journal.rows] == ["run-1", ""]
    for wrong in ("a b", "x" * 65, "ä"):
        assert (await doors.http(BODY, x_agent_run=wrong)).status == 400


@pytest.mark.parametrize(
    ("send", "reason", "records"),
    [
        (lambda doors: doors.http(b"\xff", x_agent_run="r"), "malformed", 0),
        (lambda doors: doors.grpc(b"\xff", x_agent_run="r"), "malformed", 0),
        (lambda doors: doors.http(b"x" * 200_001, x_agent_run="r"), "too_large", 0),
        (lambda doors: doors.http(BODY + BODY, x_idempotency_key="k", x_agent_run="r"), "key_reused", 4),
    ],
)
async def test_a_refusal_is_in_the_books_of_the_sender_that_is_known(
    doors: Doors, send: Any, reason: str, records: int
) -> None:
    await doors.http(BODY, x_idempotency_key="k")
    await send(doors)
    assert doors.refused.kept == [(Sender(TENANT, "agent-1", "r"), reason, False, records)]


async def test_a_refusal_of_a_stranger_is_in_nobody_s_books(doors: Doors) -> None:
    assert (await doors.http(BODY, key="nobody")).status == 401
    assert doors.refused.kept == []


async def test_a_signed_statement_is_of_the_signing_agent_and_signed_for_its_own_path(tmp_path: Path) -> None:
    edge = SignedEdge(tmp_path)
    body = b'{"run":"r"}'

    async def admitted(path: str) -> SignedSender:
        envelope = sign(
            edge.key, method="POST", path=path, client_id="acme", body=body, idempotency_key="statement-1",
            timestamp_ms=int(NOW.timestamp() * 1000), nonce=new_nonce(),
        )  # fmt: skip
        found = await edge.check.admit({"authorization": "Bearer good"} | lower(envelope.headers))
        return SignedSender(found.sender, found.envelope, found.key, found.spend, LEDGER_PATH)

    good = await admitted(LEDGER_PATH)
    await good.confirm(body)
    assert good.sender.agent == ROW.agent
    with pytest.raises(WireError) as refused:
        await (await admitted(INGEST_PATH)).confirm(body)
    assert refused.value.reason == "bad_signature"


def lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
