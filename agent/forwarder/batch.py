"""One export request as the spool keeps it: the body as it came, and what is known of it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

BodyKind = Literal["protobuf", "json"]
BodyEncoding = Literal["identity", "gzip", "zstd", "deflate"]

MEDIA_TYPES: Final[dict[BodyKind, str]] = {"protobuf": "application/x-protobuf", "json": "application/json"}

_KINDS: Final[tuple[BodyKind, ...]] = ("protobuf", "json")
_ENCODINGS: Final[tuple[BodyEncoding, ...]] = ("identity", "gzip", "zstd", "deflate")
_HEAD = struct.Struct("<BBBBQ32s")  # version, kind, encoding, masked and life, arrival, digest
_VERSION = 1
_MASKED = 0x80
MOST_LIVES: Final = 0x7F
"""How often a batch may be taken from poison/ and sent anew."""
PREFIX_BYTES: Final = _HEAD.size
"""How much of a packed batch `identity_of_prefix` needs."""


class UnreadableBatch(ValueError):
    """These bytes are no batch that this release has written."""


@dataclass(frozen=True, slots=True)
class Batch:
    """`body` is in `encoding`; `digest` is the SHA-256 of it decompressed; `arrived_ms` is since the epoch. `masked`
    says that it went through the masking stage, `life` how often it was taken from poison/."""

    kind: BodyKind
    encoding: BodyEncoding
    digest: bytes
    arrived_ms: int
    body: bytes
    masked: bool = False
    life: int = 0

    @property
    def identity(self) -> bytes:
        """By this a repetition is known. A batch that the server refused is another one when it is sent anew."""
        return _identity(self.digest, self.life)

    def pack(self) -> bytes:
        """The batch as the spool's payload."""
        kind, encoding = _KINDS.index(self.kind), _ENCODINGS.index(self.encoding)
        state = self.life | (_MASKED if self.masked else 0)
        return _HEAD.pack(_VERSION, kind, encoding, state, self.arrived_ms, self.digest) + self.body

    @classmethod
    def unpack(cls, payload: bytes) -> Batch:
        """Raises UnreadableBatch."""
        try:
            version, kind, encoding, state, arrived_ms, digest = _HEAD.unpack_from(payload)
            if version != _VERSION:
                raise UnreadableBatch(f"version {version}")
            body = payload[_HEAD.size :]
            masked, life = bool(state & _MASKED), state & MOST_LIVES
            return cls(_KINDS[kind], _ENCODINGS[encoding], digest, arrived_ms, body, masked, life)
        except (struct.error, IndexError) as error:
            raise UnreadableBatch(str(error)) from error


def identity_of_prefix(prefix: bytes) -> bytes:
    """The identity of a packed batch, from its first PREFIX_BYTES bytes."""
    *_, state, _, digest = _HEAD.unpack_from(prefix)
    return _identity(digest, state & MOST_LIVES)


def _identity(digest: bytes, life: int) -> bytes:
    return digest + bytes([life]) if life else digest
