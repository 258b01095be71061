"""`trustsoc ledger`, `trustsoc receipt`, and the books that `trustsoc send` keeps, against a real server."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from serve.ingest.receipts import Receipt, ReceiptSigner, new_key_file, read_key_file, verify_receipt

PROTOBUF = "application/x-protobuf"
BODY = b"the body as it was sent"


@pytest.fixture
def signer(tmp_path: Path) -> ReceiptSigner:
    new_key_file(tmp_path / "server-keys.json")
    return ReceiptSigner.from_file(tmp_path / "server-keys.json")


@pytest.fixture
def receipt() -> Receipt:
    batch = "22222222-2222-5222-8222-222222222222"
    return Receipt("11111111-1111-4111-8111-111111111111", batch, 7, hashlib.sha256(BODY).hexdigest(), 3)


def a_run(agent: str, run: str, **statement: Any) -> dict[str, Any]:
    server = {
        "stored_batches": 2, "stored_records": 1500, "duplicate_batches": 1, "duplicate_records": 500,
        "elsewhere_records": 0,
        "rejections": [
            {"reason": "malformed", "retryable": False, "requests": 4, "records": 0},
            {"reason": "unavailable", "retryable": True, "requests": 9, "records": 0},
        ],
    }  # fmt: skip
    zeros = {"accepted": 0, "stored": 0, "duplicate": 0, "rejected": {}, "in_flight": 0, "missing": 0, "excess": 0}
    said = zeros | {"detail": "", "stated_at": "2026-03-01T12:00:00Z"} | statement
    moment = f"2026-03-01T12:00:0{len(run)}Z"
    return {
        "agent": agent, "run": run, "server": server, "statement": said if statement else None,
        "first_batch": moment, "last_batch": moment, "last_seen": moment,
    }  # fmt: skip


def test_the_ledger_shows_every_run_and_what_does_not_balance(run: Any, server: Any) -> None:
    rows = [
        a_run("web-1", "r1", in_flight=20, rejected={"malformed": 3}, missing=2, excess=1, detail="two are lost"),
        a_run("web-2", ""),
        a_run("web-3", "run-3", in_flight=0),
    ]
    server.answers("GET /api/ledger", {"items": rows, "next_cursor": None})
    outcome = run("ledger", "--agent", "web-1")
    assert outcome.code == 0
    assert server.asked_for("GET /api/ledger")[0].query == {"agent": "web-1", "limit": "200"}
    assert [line.split()[0] for line in outcome.out.splitlines() if line.startswith("web-")][:3] == [
        "web-3", "web-1", "web-2",
    ]  # fmt: skip
    lines = outcome.out.splitlines()
    gap = next(line for line in lines if line.startswith("web-1"))
    assert gap.split()[1:6] == ["1,500", "500", "malformed", "3", "20"]
    assert "1 too many" in outcome.out
    assert "web-1 r1: two are lost" in outcome.out
    silent = next(line for line in lines if line.startswith("web-2"))
    assert "4 requests" in " ".join(lines)
    assert silent.split()[-3] == "-", "a sender that keeps no books has nothing missing that could be known"
    assert "unavailable" not in outcome.out
    assert run("ledger", "--json").json["items"] == rows


def test_an_empty_ledger_says_what_to_do(run: Any, server: Any) -> None:
    server.answers("GET /api/ledger", {"items": [], "next_cursor": None})
    assert "trustsoc send" in run("ledger").out


def test_a_receipt_verifies_offline_with_the_saved_keys(
    run: Any, server: Any, signer: ReceiptSigner, receipt: Receipt, tmp_path: Path
) -> None:
    server.answers("GET /.well-known/jwks.json", signer.jwks())
    keys = tmp_path / "jwks.json"
    keys.write_text(run("receipt", "keys").out)
    asked = len(server.asked)
    outcome = run("receipt", "verify", signer.sign(receipt), "--keys", str(keys), "--json")
    assert outcome.code == 0
    assert outcome.json == {
        "tenant": receipt.tenant, "batch": receipt.batch, "seq": 7, "digest": receipt.digest, "records": 3,
        "verified": ["signature"],
    }  # fmt: skip
    piped = run("receipt", "verify", "-", "--keys", str(keys), stdin=f"{signer.sign(receipt)}\n".encode())
    assert "The receipt is good (signature)" in piped.out
    assert len(server.asked) == asked, "nobody was asked"
    changed = run("receipt", "verify", signer.sign(receipt)[:-4] + "AAAA", "--keys", str(keys))
    assert (changed.code, changed.out) == (1, "")
    assert "the receipt is not good" in changed.err


def test_the_body_of_a_receipt_is_checked(
    run: Any, server: Any, signer: ReceiptSigner, receipt: Receipt, tmp_path: Path
) -> None:
    server.answers("GET /.well-known/jwks.json", signer.jwks())
    body = tmp_path / "body"
    body.write_bytes(BODY)
    assert run("receipt", "verify", signer.sign(receipt), "--body", str(body), "--json").json["verified"] == [
        "signature", "body",
    ]  # fmt: skip
    body.write_bytes(BODY + b"!")
    other = run("receipt", "verify", signer.sign(receipt), "--body", str(body))
    assert other.code == 1
    assert "another body" in other.err


def test_online_the_journal_must_agree(run: Any, server: Any, signer: ReceiptSigner, receipt: Receipt) -> None:
    server.answers("GET /.well-known/jwks.json", signer.jwks())
    batch = {"tenant": receipt.tenant, "batch": receipt.batch, "seq": 7, "digest": receipt.digest, "records": 3}
    server.answers("GET /api/batches/7", batch)
    assert "signature, journal" in run("receipt", "verify", signer.sign(receipt), "--online").out
    server.answers("GET /api/batches/7", batch | {"digest": "00" * 32, "records": 2})
    assert "differs in digest, records" in run("receipt", "verify", signer.sign(receipt), "--online").err
    del server.routes["GET /api/batches/7"]
    gone = run("receipt", "verify", signer.sign(receipt), "--online")
    assert gone.code == 1
    assert "the batch is not there" in gone.err


def test_rotating_makes_the_first_key_and_then_new_ones(run: Any, directory: Any) -> None:
    path = directory.path / "receipt-keys.json"
    assert str(path) in "".join(run("receipt", "rotate").out.split("\n"))
    [first] = read_key_file(path)
    assert run("receipt", "rotate").code == 0
    second, before = read_key_file(path)
    assert before == {name: value for name, value in first.items() if name != "d"}
    assert "d" in second


class Books:
    """A server that stores whatever comes, signs receipts, and judges nothing: it says what the test wants."""

    def __init__(self, server: Any, signer: ReceiptSigner) -> None:
        self._answer = type(server.routes["GET /healthz"](None))
        self.signer = signer
        self.stated: list[dict[str, Any]] = []
        self.runs: set[str] = set()
        self.seq = 0
        self.records = 0
        self.headers: dict[str, str] = {}
        self.verdict: dict[str, Any] = {"balanced": True, "detail": ""}
        server.answers("GET /.well-known/jwks.json", signer.jwks())
        server.routes["POST /v1/logs"] = self.take
        server.routes["POST /ingest/ledger"] = self.state

    def take(self, asked: Any) -> Any:
        self.runs.add(asked.headers["x-agent-run"])
        self.seq += 1
        claims = Receipt(
            "tenant", "batch", self.seq, hashlib.sha256(gzip.decompress(asked.body)).hexdigest(), self.records
        )
        headers = {"X-Batch-Seq": str(self.seq), "X-Batch-Duplicate": "false", "X-Receipt": self.signer.sign(claims)}
        return self._answer(200, b"", headers | self.headers, PROTOBUF)

    def state(self, asked: Any) -> Any:
        self.stated.append(json.loads(asked.body))
        return self._answer(200, self.verdict)


@pytest.fixture
def books(server: Any, signer: ReceiptSigner) -> Books:
    return Books(server, signer)


def write_lines(path: Path, count: int) -> Path:
    path.write_text("".join(f"line {number}\n" for number in range(count)))
    return path


def test_send_states_its_books_at_the_end_and_verifies_every_receipt(run: Any, books: Books, tmp_path: Path) -> None:
    books.records = 1000
    outcome = run("send", str(write_lines(tmp_path / "a.log", 2000)), "--json")
    assert outcome.code == 0
    [stated] = books.stated
    assert {stated["run"]} == books.runs == {outcome.json["run"]}
    assert {name: stated[name] for name in stated if name != "run"} == {
        "accepted": 2000, "stored": 2000, "duplicate": 0, "elsewhere": 0, "unsettled": 0, "in_flight": 0,
        "rejected": {}, "seen_seq": 2,
    }  # fmt: skip
    assert (outcome.json["ledger"], outcome.json["receipts"], outcome.json["accepted"]) == ("balanced", 2, 2000)


def test_send_tells_duplicates_of_an_earlier_run_apart(run: Any, books: Books, tmp_path: Path) -> None:
    books.records = 10
    books.headers = {"X-Batch-Duplicate": "true", "X-Batch-Elsewhere": "true"}
    assert run("send", str(write_lines(tmp_path / "a.log", 10)), "--json").json["duplicate"] == 10
    assert (books.stated[0]["duplicate"], books.stated[0]["elsewhere"], books.stated[0]["stored"]) == (10, 10, 0)


def test_a_ledger_that_does_not_balance_fails_the_command(run: Any, books: Books, tmp_path: Path) -> None:
    books.records = 10
    books.verdict = {"balanced": False, "detail": "one record is gone"}
    outcome = run("send", str(write_lines(tmp_path / "a.log", 10)))
    assert outcome.code == 1
    assert "does not balance: one record is gone" in " ".join(outcome.out.split())


def test_a_receipt_of_something_else_ends_the_command(run: Any, books: Books, tmp_path: Path) -> None:
    books.records = 11
    outcome = run("send", str(write_lines(tmp_path / "a.log", 10)))
    assert outcome.code == 1
    assert "receipt is of another batch" in outcome.err
    assert books.stated[0]["in_flight"] == 10, "what was not proven is not counted as stored"


def test_a_new_key_of_the_server_is_fetched_and_a_strangers_is_not_believed(
    run: Any, server: Any, books: Books, tmp_path: Path
) -> None:
    new_key_file(tmp_path / "stranger.json")
    stranger = ReceiptSigner.from_file(tmp_path / "stranger.json")
    books.records, books.signer = 10, stranger
    path = str(write_lines(tmp_path / "a.log", 10))
    assert "receipt is not good" in run("send", path).err
    server.answers("GET /.well-known/jwks.json", stranger.jwks())
    assert run("send", path).code == 0
    assert verify_receipt(stranger.sign(Receipt("t", "b", 1, "d", 1)), stranger.jwks()).seq == 1
