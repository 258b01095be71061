"""The signed envelope: one canonical form for one request, and no other request has it."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import fields, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.contract import (
    EnvelopeError,
    EnvelopeParts,
    SignedHeaders,
    SigningKey,
    new_nonce,
    payload_hash,
    read_envelope,
    sign,
    string_to_sign,
)

KEY = SigningKey("a1b2c3d4e5f6", "tss_a1b2c3d4e5f6_secret")

visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)
parts = st.builds(
    EnvelopeParts,
    client_id=visible,
    timestamp_ms=st.integers(10**12, 10**13 - 1),
    nonce=st.from_regex(r"[A-Za-z0-9_-]{16,64}", fullmatch=True),
    payload_hash=st.binary(max_size=20).map(payload_hash),
    idempotency_key=visible,
    key_id=visible,
)
requests = st.tuples(st.sampled_from(["POST", "PUT"]), visible.map(lambda text: "/" + text), parts)


def signed(**changes: object) -> SignedHeaders:
    given_parts: dict[str, object] = {
        "method": "POST",
        "path": "/ingest/logs",
        "client_id": "acme",
        "body": b"body",
        "idempotency_key": "batch-1",
        "timestamp_ms": 1767225600123,
        "nonce": "n" * 24,
    }
    return sign(KEY, **{**given_parts, **changes})  # type: ignore[arg-type]  # the names are those of sign()


def test_the_canonical_form_is_what_the_documentation_says() -> None:
    envelope = signed()
    lines = [
        "TRUSTSOC-HMAC-SHA256-V1",
        "POST",
        "/ingest/logs",
        "acme",
        "1767225600123",
        "n" * 24,
        hashlib.sha256(b"body").hexdigest(),
        "batch-1",
        "a1b2c3d4e5f6",
    ]
    message = "\n".join(lines).encode()
    assert string_to_sign("POST", "/ingest/logs", envelope.parts) == message
    assert envelope.headers == {
        "X-Client-Id": "acme",
        "X-Request-Timestamp": "1767225600123",
        "X-Nonce": "n" * 24,
        "X-Payload-Hash": hashlib.sha256(b"body").hexdigest(),
        "X-Idempotency-Key": "batch-1",
        "X-Key-Id": "a1b2c3d4e5f6",
        "X-Signature": "v1=" + hmac.new(KEY.secret.encode(), message, hashlib.sha256).hexdigest(),
    }


@given(requests, requests)
def test_two_requests_that_differ_have_two_canonical_forms(
    one: tuple[str, str, EnvelopeParts], other: tuple[str, str, EnvelopeParts]
) -> None:
    assert (string_to_sign(*one) == string_to_sign(*other)) == (one == other)


@given(requests, st.data())
def test_a_change_of_any_part_breaks_the_signature(
    request: tuple[str, str, EnvelopeParts], data: st.DataObject
) -> None:
    method, path, given_parts = request
    envelope = SignedHeaders(given_parts, _signature(method, path, given_parts))
    assert envelope.signed_by(KEY.secret, method, path)
    name = data.draw(st.sampled_from(["method", "path", "secret", *(field.name for field in fields(EnvelopeParts))]))
    if name in {"method", "path", "secret"}:
        changed = {"method": method, "path": path, "secret": KEY.secret}
        changed[name] += "x"
        assert not envelope.signed_by(changed["secret"], changed["method"], changed["path"])
        return
    drawn = getattr(data.draw(parts), name)
    assume(drawn != getattr(given_parts, name))
    forged = SignedHeaders(replace(given_parts, **{name: drawn}), envelope.signature)
    assert not forged.signed_by(KEY.secret, method, path)


@given(requests, st.integers(0, 63))
def test_a_signature_with_one_digit_changed_is_no_signature(
    request: tuple[str, str, EnvelopeParts], place: int
) -> None:
    method, path, given_parts = request
    good = _signature(method, path, given_parts)
    at = len("v1=") + place
    bad = good[:at] + ("0" if good[at] != "0" else "1") + good[at + 1 :]
    assert not SignedHeaders(given_parts, bad).signed_by(KEY.secret, method, path)


@given(requests)
def test_headers_read_back_as_they_were_signed(request: tuple[str, str, EnvelopeParts]) -> None:
    method, path, given_parts = request
    envelope = SignedHeaders(given_parts, _signature(method, path, given_parts))
    assert read_envelope({name.lower(): value for name, value in envelope.headers.items()}) == envelope


@pytest.mark.parametrize(
    ("header", "values"),
    [
        ("X-Client-Id", ["a b", "a\nb", "é", "x" * 65]),
        ("X-Request-Timestamp", ["1767225600", "01767225600123", "+176722560012", "1767225600.12", "²767225600123"]),
        ("X-Nonce", ["n" * 15, "n" * 65, "n" * 20 + "\n", "n" * 20 + "="]),
        ("X-Payload-Hash", ["a" * 63, "A" * 64, "sha-256=" + "a" * 56]),
        ("X-Idempotency-Key", ["k" * 121, "a b", "a\r\nX-Nonce: b"]),
        ("X-Key-Id", ["k" * 65, "\x00", "a\tb"]),
        ("X-Signature", ["v2=" + "a" * 64, "v1=" + "A" * 64, "a" * 64]),
    ],
)
def test_headers_of_another_form_are_refused_by_name(header: str, values: list[str]) -> None:
    headers = {name.lower(): value for name, value in signed().headers.items()}
    for value in values:
        with pytest.raises(EnvelopeError, match=header) as caught:
            read_envelope(headers | {header.lower(): value})
        assert caught.value.kind == "malformed"
    with pytest.raises(EnvelopeError, match=header) as missing:
        read_envelope(headers | {header.lower(): ""})
    assert missing.value.kind == "missing"


@given(st.dictionaries(st.sampled_from([name.lower() for name in signed().headers]), st.text(max_size=80)))
def test_hostile_headers_are_read_or_refused_never_anything_else(headers: dict[str, str]) -> None:
    try:
        envelope = read_envelope(headers)
    except EnvelopeError:
        return
    assert {name.lower(): value for name, value in envelope.headers.items()} == headers


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": "a\nb"},
        {"idempotency_key": ""},
        {"path": "/a b"},
        {"method": "PO\nST"},
        {"nonce": "short"},
        {"timestamp_ms": 1767225600},
    ],
)
def test_what_would_be_ambiguous_cannot_be_signed(change: dict[str, object]) -> None:
    with pytest.raises(EnvelopeError):
        signed(**change)


def test_nonces_do_not_repeat_and_secrets_do_not_show() -> None:
    assert len({new_nonce() for _ in range(1000)}) == 1000
    assert signed(nonce=new_nonce()).signed_by(KEY.secret, "POST", "/ingest/logs")
    assert KEY.secret not in repr(KEY)


def _signature(method: str, path: str, given_parts: EnvelopeParts) -> str:
    return "v1=" + hmac.new(KEY.secret.encode(), string_to_sign(method, path, given_parts), hashlib.sha256).hexdigest()
