"""Receipts: what the server says it has made durable, signed, so that a sender can prove it later without the server.

A receipt is a JWS in compact serialisation (RFC 7515, section 7.1) with Ed25519 (RFC 8037, section 3.1) over the JSON
of its claims, keys sorted. Ed25519 is deterministic, so one batch has one text for as long as the key is the same, and
a repeat of a batch gets the very bytes of the first answer. Keys are named by their thumbprint (RFC 7638).

The key file is a JWK set (RFC 7517): the first key, with its private part `d`, signs; those after it signed once, have
lost their private part, and stay published, so that old receipts verify for ever.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from uuid import UUID, uuid5

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from detect.record import TenantId

RECEIPT_TYPE = "trustsoc-receipt"
JWKS_PATH = "/.well-known/jwks.json"
BATCH_NAMESPACE = UUID("3c0d8f5a-9a52-5d0b-8f5e-6b2d1c7e4a90")
"""Namespace of batch ids (RFC 9562, section 5.5)."""

LONGEST_RECEIPT = 4096
_SEED_BYTES = 32


class ReceiptKeyError(Exception):
    """The key file cannot be used. The text says why and what to do."""


class InvalidReceipt(ValueError):
    """The text is no receipt that one of the known keys has signed."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The claims: batch `batch` of tenant `tenant` is batch `seq` of its journal and holds so many `records`.

    `tenant` and `batch` are UUIDs as text, `digest` is the SHA-256 of the body after decompression, in hex.
    """

    tenant: str
    batch: str
    seq: int
    digest: str
    records: int


def batch_id(tenant: TenantId, agent: str, journal_key: bytes, digest: bytes) -> UUID:
    """UUIDv5 over tenant, agent and idempotency key, joined by U+001F; a sender can compute it.

    The key counts as `key:TEXT` when the sender stated one (which is how the journal holds it), and as `sha256:HEX` of
    the body when it stated none.
    """
    key = f"sha256:{digest.hex()}" if journal_key == digest else journal_key.decode("utf-8", "backslashreplace")
    return uuid5(BATCH_NAMESPACE, f"{tenant}\x1f{agent}\x1f{key}")


class ReceiptSigner:
    """Signs receipts with the first key of a key file and publishes all of them. Safe to share between tasks."""

    def __init__(self, keys: Sequence[dict[str, str]]) -> None:
        if not keys or "d" not in keys[0]:
            raise ReceiptKeyError("the receipt keys begin with no private key: make one with `trustsoc receipt rotate`")
        self._key = Ed25519PrivateKey.from_private_bytes(_bytes_of(keys[0], "d"))
        own = public_jwk(self._key.public_key())
        if keys[0].get("x", own["x"]) != own["x"]:
            raise ReceiptKeyError("the first receipt key's public part is another key's: restore the file")
        self._published = [own, *(public_jwk(_public_key(key)) for key in keys[1:])]
        self._header = _encoded({"alg": "EdDSA", "kid": own["kid"], "typ": RECEIPT_TYPE})

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Reads the key file; ReceiptKeyError when it is missing, damaged, or readable by everybody."""
        return cls(read_key_file(path))

    @property
    def key_id(self) -> str:
        """The thumbprint of the key that signs."""
        return self._published[0]["kid"]

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public keys as a JWK set (RFC 7517, section 5), the one that signs first."""
        return {"keys": self._published}

    def sign(self, receipt: Receipt) -> str:
        """The receipt's text: about 500 ASCII characters, the same for the same claims."""
        signed = b".".join((self._header, _encoded(asdict(receipt))))
        return b".".join((signed, _base64(self._key.sign(signed)))).decode("ascii")


def verify_receipt(text: str, jwks: Any) -> Receipt:
    """The claims of a receipt that a key of the JWK set has signed; InvalidReceipt says what is wrong otherwise."""
    parts = text.encode("utf-8", "replace").split(b".") if len(text) <= LONGEST_RECEIPT else []
    if len(parts) != 3:
        raise InvalidReceipt("a receipt has three parts with dots between them: copy the whole X-Receipt header")
    header = _decoded_json(parts[0], "header")
    # The algorithm is ours to choose, never the text's (RFC 8725, section 3.1).
    if set(header) != {"alg", "kid", "typ"} or header["alg"] != "EdDSA" or header["typ"] != RECEIPT_TYPE:
        raise InvalidReceipt("this is a signed text of another kind, not a receipt")
    key = _key_of(jwks, header["kid"])
    try:
        key.verify(_decoded(parts[2], "signature"), b".".join(parts[:2]))
    except InvalidSignature as error:
        raise InvalidReceipt("the signature does not fit: the receipt was changed") from error
    try:
        return Receipt(**_decoded_json(parts[1], "claims"))
    except TypeError as error:
        raise InvalidReceipt("the signed claims are not a receipt's: verify it with a newer version") from error


def new_key_file(path: Path) -> None:
    """Makes a key file (mode 0600) with one new key unless there is a file; two makers at once end with one key."""
    if not path.exists():
        _write_keys(path, [_new_key()], replace=False)


def rotate_key_file(path: Path) -> str:
    """Puts a new key first; the one before loses its private part and stays published. The new key's id."""
    before = [public_jwk(_public_key(key)) for key in read_key_file(path)] if path.exists() else []
    key = _new_key()
    _write_keys(path, [key, *before], replace=True)
    return key["kid"]


def read_key_file(path: Path) -> list[dict[str, str]]:
    """The keys of a key file; ReceiptKeyError when it is missing, damaged, or readable by everybody."""
    try:
        if path.stat().st_mode & 0o007:
            raise ReceiptKeyError(f"{path} holds a private key and everybody can read it: run `chmod 600 {path}`")
        content = orjson.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ReceiptKeyError(f"there is no receipt key {path}: make one with `trustsoc receipt rotate`") from error
    except OSError as error:
        raise ReceiptKeyError(f"the receipt key {path} cannot be read ({error.strerror})") from error
    except orjson.JSONDecodeError as error:
        raise ReceiptKeyError(f"the receipt key {path} is damaged ({error}): restore it from a backup") from error
    return jwk_list(content)


def jwk_list(jwks: Any) -> list[dict[str, str]]:
    """The Ed25519 keys of a JWK set; other keys in it are passed over. ReceiptKeyError for what is no JWK set."""
    keys = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(keys, list):
        raise ReceiptKeyError("this is no JWK set: fetch it from /.well-known/jwks.json")
    return [key for key in keys if isinstance(key, dict) and (key.get("kty"), key.get("crv")) == ("OKP", "Ed25519")]


def public_jwk(key: Ed25519PublicKey) -> dict[str, str]:
    """A public key as a JWK (RFC 8037, section 2) under its thumbprint."""
    x = _base64(key.public_bytes_raw()).decode("ascii")
    return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": thumbprint(x), "use": "sig", "alg": "EdDSA"}


def thumbprint(x: str) -> str:
    """RFC 7638 over the required members of an OKP key (RFC 8037, section 2), in order, without white space."""
    required = orjson.dumps({"crv": "Ed25519", "kty": "OKP", "x": x})
    return _base64(hashlib.sha256(required).digest()).decode("ascii")


def _new_key() -> dict[str, str]:
    key = Ed25519PrivateKey.generate()
    return public_jwk(key.public_key()) | {"d": _base64(key.private_bytes_raw()).decode("ascii")}


def _write_keys(path: Path, keys: list[dict[str, str]], *, replace: bool) -> None:
    """Whole or not at all, and never readable by others; without `replace` a file that has come meanwhile stays."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps({"keys": keys}, option=orjson.OPT_INDENT_2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if replace:
            Path(temporary).replace(path)
        else:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return
    finally:
        Path(temporary).unlink(missing_ok=True)


def _key_of(jwks: Any, key_id: Any) -> Ed25519PublicKey:
    for candidate in jwk_list(jwks):
        key = _public_key(candidate)
        # The name is computed, not believed: a key set cannot pass one key off as another.
        if public_jwk(key)["kid"] == key_id:
            return key
    raise InvalidReceipt(f"it is signed by the key {str(key_id)[:64]!r}, which the key set does not have")


def _public_key(jwk: dict[str, str]) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(_bytes_of(jwk, "x"))


def _bytes_of(jwk: dict[str, str], member: str) -> bytes:
    try:
        value = _decoded(str(jwk.get(member, "")).encode("ascii", "replace"), member)
    except InvalidReceipt as error:
        raise ReceiptKeyError(f"the member {member!r} of a receipt key is damaged: restore the file") from error
    if len(value) != _SEED_BYTES:
        raise ReceiptKeyError(f"the member {member!r} of a receipt key has {len(value)} bytes, not {_SEED_BYTES}")
    return value


def _encoded(value: dict[str, Any]) -> bytes:
    return _base64(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))


def _decoded_json(part: bytes, what: str) -> dict[str, Any]:
    try:
        value = orjson.loads(_decoded(part, what))
    except orjson.JSONDecodeError as error:
        raise InvalidReceipt(f"its {what} is no JSON") from error
    if not isinstance(value, dict):
        raise InvalidReceipt(f"its {what} is no JSON object")
    return value


def _base64(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")


def _decoded(part: bytes, what: str) -> bytes:
    """Strict base64url without padding: one text for one value, so that not even a receipt's spelling can change."""
    try:
        value = base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidReceipt(f"its {what} is no base64url") from error
    if _base64(value) != part:
        raise InvalidReceipt(f"its {what} is no canonical base64url")
    return value
