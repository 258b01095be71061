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
_HEAD = struct.Struct("<BBBBQ32s")  # version, kind, encoding, 0, arrival, digest
_VERSION = 1
PREFIX_BYTES: Final = _HEAD.size
"""How much of a packed batch `digest_of_prefix` needs."""


class UnreadableBatch(ValueError):
    """These bytes are no batch that this release has written."""


@dataclass(frozen=True, slots=True)
class Batch:
    """`body` is in `encoding`; `digest` is the SHA-256 of it decompressed; `arrived_ms` is since the epoch."""

    kind: BodyKind
    encoding: BodyEncoding
    digest: bytes
    arrived_ms: int
    body: bytes

    def pack(self) -> bytes:
        """The batch as the spool's payload."""
        kind, encoding = _KINDS.index(self.kind), _ENCODINGS.index(self.encoding)
        return _HEAD.pack(_VERSION, kind, encoding, 0, self.arrived_ms, self.digest) + self.body

    @classmethod
    def unpack(cls, payload: bytes) -> Batch:
        """Raises UnreadableBatch."""
        try:
            version, kind, encoding, _, arrived_ms, digest = _HEAD.unpack_from(payload)
            if version != _VERSION:
                raise UnreadableBatch(f"version {version}")
            return cls(_KINDS[kind], _ENCODINGS[encoding], digest, arrived_ms, payload[_HEAD.size :])
        except (struct.error, IndexError) as error:
            raise UnreadableBatch(str(error)) from error


def digest_of_prefix(prefix: bytes) -> bytes:
    """The digest in the first PREFIX_BYTES bytes of a packed batch."""
    return prefix[-32:]
