"""Receipts: what was signed verifies, what was changed does not, and old ones verify after the key was changed."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from pathlib import Path
from uuid import UUID, uuid5

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from detect.record import TenantId
from serve.ingest.receipts import (
    BATCH_NAMESPACE,
    InvalidReceipt,
    Receipt,
    ReceiptKeyError,
    ReceiptSigner,
    batch_id,
    new_key_file,
    read_key_file,
    rotate_key_file,
    thumbprint,
    verify_receipt,
)

TENANT = TenantId(UUID("11111111-1111-4111-8111-111111111111"))
RECEIPT = Receipt(str(TENANT), "22222222-2222-5222-8222-222222222222", 4711, "ab" * 32, 1000)
# The Ed25519 key of RFC 8037, appendix A.1 and its thumbprint of A.3.
EXAMPLE_KEY = {
    "kty": "OKP",
    "crv": "Ed25519",
    "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
}
EXAMPLE_THUMBPRINT = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
SIGNER = ReceiptSigner([EXAMPLE_KEY])
TEXT = SIGNER.sign(RECEIPT)


def test_a_receipt_is_a_small_compact_jws_that_says_what_was_stored() -> None:
    header, claims, signature = TEXT.split(".")
    assert json.loads(unpadded(header)) == {"alg": "EdDSA", "kid": EXAMPLE_THUMBPRINT, "typ": "trustsoc-receipt"}
    assert json.loads(unpadded(claims)) == {
        "tenant": str(TENANT), "batch": RECEIPT.batch, "seq": 4711, "digest": "ab" * 32, "records": 1000,
    }  # fmt: skip
    assert len(TEXT) < 600
    # Any JOSE library does no more than this.
    key = Ed25519PublicKey.from_public_bytes(unpadded(SIGNER.jwks()["keys"][0]["x"]))
    key.verify(unpadded(signature), f"{header}.{claims}".encode())


def test_the_same_claims_have_the_same_text_and_other_claims_another() -> None:
    assert ReceiptSigner([EXAMPLE_KEY]).sign(RECEIPT) == TEXT
    assert SIGNER.sign(Receipt(RECEIPT.tenant, RECEIPT.batch, 4712, RECEIPT.digest, 1000)) != TEXT


def test_what_was_signed_verifies_with_the_published_keys_alone() -> None:
    published = json.loads(json.dumps(SIGNER.jwks()))
    assert "d" not in published["keys"][0]
    assert verify_receipt(TEXT, published) == RECEIPT


def test_key_ids_are_thumbprints() -> None:
    assert thumbprint(EXAMPLE_KEY["x"]) == EXAMPLE_THUMBPRINT == SIGNER.key_id


@given(st.integers(0, len(TEXT) - 1), st.characters(max_codepoint=0x2FF))
def test_no_character_can_be_changed(place: int, character: str) -> None:
    changed = TEXT[:place] + character + TEXT[place + 1 :]
    if changed != TEXT:
        with pytest.raises(InvalidReceipt):
            verify_receipt(changed, SIGNER.jwks())


@given(st.one_of(st.text(), st.integers(0, len(TEXT)).map(lambda cut: TEXT[:cut] + TEXT[cut + 1 :])))
def test_whatever_is_no_receipt_is_refused_with_a_reason(text: str) -> None:
    if text != TEXT:
        with pytest.raises(InvalidReceipt, match=r"\w{3}"):
            verify_receipt(text, SIGNER.jwks())


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "kid": EXAMPLE_THUMBPRINT, "typ": "trustsoc-receipt"},
        {"alg": "HS256", "kid": EXAMPLE_THUMBPRINT, "typ": "trustsoc-receipt"},
        {"alg": "EdDSA", "kid": EXAMPLE_THUMBPRINT, "typ": "JWT"},
        {"alg": "EdDSA", "kid": EXAMPLE_THUMBPRINT, "typ": "trustsoc-receipt", "crit": ["exp"], "exp": 1},
        {"alg": "EdDSA", "typ": "trustsoc-receipt", "jwk": {"kty": "OKP"}},
    ],
)
def test_the_text_does_not_choose_how_it_is_verified(header: dict) -> None:
    forged = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    with pytest.raises(InvalidReceipt, match="another kind"):
        verify_receipt(forged + TEXT[TEXT.index(".") :], SIGNER.jwks())


def test_a_key_that_is_not_published_is_not_believed(tmp_path: Path) -> None:
    new_key_file(tmp_path / "other")
    other = ReceiptSigner.from_file(tmp_path / "other")
    with pytest.raises(InvalidReceipt, match="which the key set does not have"):
        verify_receipt(TEXT, other.jwks())
    mislabelled = {"keys": [other.jwks()["keys"][0] | {"kid": EXAMPLE_THUMBPRINT}]}
    with pytest.raises(InvalidReceipt, match="which the key set does not have"):
        verify_receipt(TEXT, mislabelled)
    with pytest.raises(ReceiptKeyError, match="no JWK set"):
        verify_receipt(TEXT, ["keys"])


def test_the_key_file_is_private_and_made_once(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    new_key_file(path)
    made = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    new_key_file(path)
    assert path.read_bytes() == made
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_key_signs_and_the_old_one_goes_on_verifying_without_its_private_part(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    new_key_file(path)
    before = ReceiptSigner.from_file(path)
    old = before.sign(RECEIPT)
    new_id = rotate_key_file(path)
    after = ReceiptSigner.from_file(path)
    assert after.key_id == new_id != before.key_id
    assert after.sign(RECEIPT) != old
    assert verify_receipt(old, after.jwks()) == verify_receipt(after.sign(RECEIPT), after.jwks()) == RECEIPT
    assert ["d" in key for key in read_key_file(path)] == [True, False]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (None, 0, "make one with"),
        (b'{"keys": []}', 0o600, "no private key"),
        (b"{", 0o600, "damaged"),
        (b"[]", 0o600, "no JWK set"),
        (json.dumps({"keys": [EXAMPLE_KEY]}).encode(), 0o604, "chmod 600"),
        (json.dumps({"keys": [EXAMPLE_KEY | {"d": "AAAA"}]}).encode(), 0o600, "3 bytes, not 32"),
        (json.dumps({"keys": [EXAMPLE_KEY | {"d": "A" * 43}]}).encode(), 0o600, "another key's"),
    ],
)
def test_a_key_file_that_cannot_be_used_says_why(
    tmp_path: Path, content: bytes | None, mode: int, message: str
) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(ReceiptKeyError, match=message):
        ReceiptSigner.from_file(path)


def test_a_sender_can_compute_the_id_of_its_batch() -> None:
    body = b"the body as it is sent"
    digest = hashlib.sha256(body).digest()
    stated = batch_id(TENANT, "agent-1", b"key:batch-7", digest)
    assert stated == uuid5(BATCH_NAMESPACE, f"{TENANT}\x1fagent-1\x1fkey:batch-7")
    unstated = batch_id(TENANT, "agent-1", digest, digest)
    assert unstated == uuid5(BATCH_NAMESPACE, f"{TENANT}\x1fagent-1\x1fsha256:{digest.hex()}")
    assert len({stated, unstated, batch_id(TENANT, "agent-2", b"key:batch-7", digest)}) == 3


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
