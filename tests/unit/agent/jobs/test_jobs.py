"""Jobs, results and key statements: only what was signed, for this agent, now."""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import fields, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from agent.canonical import canonical
from agent.jobs import (
    CLOCK_LEEWAY_MS,
    JOB_CONTEXT,
    MOST_LIFE_MS,
    MOST_OUTPUT,
    Job,
    JobKeys,
    JobRefused,
    Result,
    read_job,
    sign_job,
    sign_keys,
    sign_result,
    verify_job,
    verify_keys,
    verify_result,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
PINNED = {"jk-1": KEY.public_key(), "jk-2": OTHER.public_key()}
TENANT = uuid.UUID("7b0ff1a4-3c5e-4a57-9d0b-0d7b8f8b1c11")
NOW = 1_767_225_600_000
JOB = Job(
    id=uuid.UUID("11111111-2222-4333-8444-555555555555"),
    tenant=TENANT,
    agent="web-1",
    type="PING",
    args={"echo": "hello"},
    issued_at=NOW - 1000,
    not_before=NOW - 1000,
    expires_at=NOW + 60_000,
    idempotency_key="ping-1",
    key_id="jk-1",
)
RESULT = Result(
    job=JOB.id,
    lease=uuid.UUID("99999999-2222-4333-8444-555555555555"),
    attempt=1,
    agent="web-1",
    state="succeeded",
    reason="",
    detail="",
    output="pong\n",
    output_truncated=False,
    started_at=NOW,
    ended_at=NOW + 5,
    data={"version": "1"},
)


def verified(data: bytes, signature: str, **changes: Any) -> Job:
    given_parts: dict[str, Any] = {"keys": PINNED, "now_ms": NOW, "tenant": TENANT, "agent": "web-1"}
    return verify_job(data, signature, **(given_parts | changes))


def refusal(data: bytes, signature: str, **changes: Any) -> str:
    with pytest.raises(JobRefused) as caught:
        verified(data, signature, **changes)
    return caught.value.reason


def resigned(value: Any) -> tuple[bytes, str]:
    data = canonical(value)
    return data, base64.b64encode(KEY.sign(JOB_CONTEXT + data)).decode()


def test_a_job_is_signed_over_the_prefix_and_its_canonical_form() -> None:
    text, signature = sign_job(KEY, JOB)
    assert text == (
        '{"agent":"web-1","args":{"echo":"hello"},"dry_run":false,"expires_at":1767225660000,'
        '"id":"11111111-2222-4333-8444-555555555555","idempotency_key":"ping-1","issued_at":1767225599000,'
        '"key_id":"jk-1","not_before":1767225599000,"tenant":"7b0ff1a4-3c5e-4a57-9d0b-0d7b8f8b1c11",'
        '"type":"PING","v":1}'
    )
    KEY.public_key().verify(base64.b64decode(signature), b"TRUSTSOC-JOB-V1\n" + text.encode())
    assert verified(text.encode(), signature) == JOB


@given(st.data())
def test_no_altered_byte_of_job_or_signature_passes(data: st.DataObject) -> None:
    text, signature = sign_job(KEY, JOB)
    whole = text.encode() + signature.encode()
    place = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[place]))
    altered = whole[:place] + bytes([byte]) + whole[place + 1 :]
    split = len(text.encode())
    reason = refusal(altered[:split], altered[split:].decode("latin-1"))
    assert reason in {"malformed", "bad_signature", "unknown_key"}


@given(st.data())
def test_no_altered_field_passes_under_the_old_signature(data: st.DataObject) -> None:
    text, signature = sign_job(KEY, JOB)
    value = json.loads(text)
    name = data.draw(st.sampled_from(sorted(value)))
    other = data.draw(
        st.none() | st.booleans() | st.integers(0, 2**50) | st.text(max_size=5) | st.just(str(uuid.uuid4())),
        label=name,
    )
    if (type(other), other) == (type(value[name]), value[name]):
        return
    value[name] = other
    try:
        altered = canonical(value)
    except ValueError:
        return
    assert refusal(altered, signature) in {"malformed", "bad_signature", "unknown_key"}


@given(st.sampled_from([field.name for field in fields(Job)] + ["v"]))
def test_a_job_without_a_field_or_with_one_more_is_malformed_whoever_signed_it(name: str) -> None:
    value = json.loads(sign_job(KEY, JOB)[0])
    assert refusal(*resigned({key: item for key, item in value.items() if key != name})) == "malformed"
    assert refusal(*resigned(value | {name + "_": 1})) == "malformed"


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"v": True},
        {"tenant": str(TENANT).upper()},
        {"id": JOB.id.hex},
        {"tenant": 7},
        {"agent": "Web 1"},
        {"agent": ""},
        {"type": "ping"},
        {"type": ""},
        {"args": []},
        {"args": None},
        {"issued_at": "1"},
        {"not_before": -1},
        {"expires_at": True},
        {"dry_run": 0},
        {"idempotency_key": ""},
        {"idempotency_key": "a b"},
        {"idempotency_key": "a" * 121},
        {"idempotency_key": "a\n"},
        {"key_id": ""},
        {"expires_at": JOB.not_before},
        {"expires_at": JOB.issued_at + MOST_LIFE_MS + 1},
    ],
)
def test_a_rightly_signed_job_of_a_wrong_form_is_malformed(changes: dict[str, Any]) -> None:
    value = json.loads(sign_job(KEY, JOB)[0]) | changes
    assert refusal(*resigned(value)) == "malformed"


@given(st.binary(max_size=300))
def test_the_parser_refuses_whatever_bytes_with_its_own_error(data: bytes) -> None:
    with pytest.raises(JobRefused):
        read_job(data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([field.name for field in fields(Job)] + ["v"]), _JSON))
def test_the_parser_refuses_fields_of_any_kind_with_its_own_error(changes: dict[str, Any]) -> None:
    value = json.loads(sign_job(KEY, JOB)[0]) | changes
    data = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    try:
        job = read_job(data)
    except JobRefused:
        return
    assert job.canonical() == data


def test_who_it_is_for_and_who_signed_it() -> None:
    text, signature = sign_job(KEY, JOB)
    data = text.encode()
    assert refusal(data, signature, tenant=uuid.uuid4()) == "foreign_tenant"
    assert refusal(data, signature, agent="web-2") == "foreign_agent"
    assert refusal(data, signature, keys={"jk-2": KEY.public_key()}) == "unknown_key"
    assert refusal(data, signature, keys={"jk-1": OTHER.public_key()}) == "bad_signature"
    by_second, second = sign_job(OTHER, replace(JOB, key_id="jk-2"))
    assert verified(by_second.encode(), second).key_id == "jk-2"
    # A key signs under its own name only.
    renamed, wrong = sign_job(OTHER, JOB)
    assert refusal(renamed.encode(), wrong) == "bad_signature"


def test_when_it_counts() -> None:
    text, signature = sign_job(KEY, JOB)
    data = text.encode()
    assert verified(data, signature, now_ms=JOB.expires_at - 1) == JOB
    assert refusal(data, signature, now_ms=JOB.expires_at) == "expired"
    assert verified(data, signature, now_ms=JOB.not_before - CLOCK_LEEWAY_MS) == JOB
    assert refusal(data, signature, now_ms=JOB.not_before - CLOCK_LEEWAY_MS - 1) == "not_yet"


def test_a_signature_has_one_text() -> None:
    text, signature = sign_job(KEY, JOB)
    for other in (signature.rstrip("="), signature + "\n", signature.replace("=", ""), signature + "=", "", "ä"):
        assert refusal(text.encode(), other) == "bad_signature"
    # The last digit before the padding has bits that say nothing.
    last = signature[-3]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    sloppy = signature[:-3] + alphabet[alphabet.index(last) ^ 1] + "=="
    assert base64.b64decode(sloppy) == base64.b64decode(signature)
    assert refusal(text.encode(), sloppy) == "bad_signature"


def test_a_signature_counts_for_its_own_kind_of_statement_only() -> None:
    text, signature = sign_result(KEY, RESULT)
    with pytest.raises(JobRefused):
        verify_job(text.encode(), signature, PINNED, NOW, TENANT, "web-1")
    job_text, _ = sign_job(KEY, JOB)
    as_result = base64.b64encode(KEY.sign(b"TRUSTSOC-RESULT-V1\n" + job_text.encode())).decode()
    assert refusal(job_text.encode(), as_result) == "bad_signature"


def test_a_result_is_verified_with_its_agent_s_key_and_name() -> None:
    text, signature = sign_result(KEY, RESULT)
    assert verify_result(text.encode(), signature, KEY.public_key(), "web-1") == RESULT
    for key, agent, reason in (
        (OTHER.public_key(), "web-1", "bad_signature"),
        (KEY.public_key(), "web-2", "foreign_agent"),
    ):
        with pytest.raises(JobRefused) as caught:
            verify_result(text.encode(), signature, key, agent)
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "done"},
        {"state": "running"},
        {"ended_at": 0},
        {"reason": "Not A Word"},
        {"detail": "a" * 2001},
        {"output": "a" * (MOST_OUTPUT + 1)},
        {"attempt": -1},
        {"data": {"share": 0.5}},
        {"output": "a\0"},
    ],
)
def test_a_result_of_a_wrong_form_cannot_be_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(JobRefused):
        sign_result(KEY, replace(RESULT, **changes))


def test_the_largest_output_fits_whatever_it_is_made_of() -> None:
    for letter in ("a", '"', "\n", "\x01", "\U0001f600"):
        text, signature = sign_result(KEY, replace(RESULT, output=letter * MOST_OUTPUT, detail=letter * 2000))
        assert verify_result(text.encode(), signature, KEY.public_key(), "web-1").output == letter * MOST_OUTPUT


def test_job_keys_change_by_what_a_pinned_key_signed_and_never_backwards() -> None:
    raw = {name: key.public_bytes(Encoding.Raw, PublicFormat.Raw) for name, key in PINNED.items()}
    statement = JobKeys(serial=5, issued_at=NOW, keys=raw, key_id="jk-1")
    text, signature = sign_keys(KEY, statement)
    assert verify_keys(text.encode(), signature, PINNED, 4) == statement
    for pinned, serial, reason in (
        (PINNED, 5, "stale"),
        ({"jk-1": OTHER.public_key()}, 4, "bad_signature"),
        ({"jk-3": KEY.public_key()}, 4, "unknown_key"),
    ):
        with pytest.raises(JobRefused) as caught:
            verify_keys(text.encode(), signature, pinned, serial)
        assert caught.value.reason == reason
    for keys in ({}, raw | {"jk-3": bytes(32)}, {"jk-1": bytes(31)}, {"": bytes(32)}):
        with pytest.raises(JobRefused):
            sign_keys(KEY, replace(statement, keys=keys))
