"""The form of a detector snapshot: a mark, the format number (2 bytes), then zstd with checksum over msgpack."""

from __future__ import annotations

from typing import Any

import msgspec
import zstandard

_MARK = b"trustsoc-detector"
_LEVEL = 3


def pack_snapshot(version: int, content: dict[str, Any]) -> bytes:
    """Equal content, with keys in equal order, gives equal bytes (for one version of the zstd library)."""
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    return _MARK + version.to_bytes(2, "big") + compressor.compress(msgspec.msgpack.encode(content))


def unpack_snapshot(version: int, state: bytes) -> dict[str, Any]:
    """The content; ValueError that says what is wrong for another format, or bytes that are damaged or no snapshot."""
    if not state.startswith(_MARK) or len(state) < len(_MARK) + 2:
        raise ValueError("this is no detector snapshot: replay the journal from its beginning")
    found = int.from_bytes(state[len(_MARK) : len(_MARK) + 2], "big")
    if found != version:
        raise ValueError(
            f"the snapshot has format {found}, this program reads format {version}: "
            "run the version that wrote it, or delete the snapshot to replay the journal"
        )
    try:
        content = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(state[len(_MARK) + 2 :]))
    except (zstandard.ZstdError, msgspec.DecodeError) as error:
        raise ValueError(f"the snapshot is damaged ({error}): delete it to replay the journal") from error
    if not isinstance(content, dict):
        raise ValueError("the snapshot is damaged (no mapping): delete it to replay the journal")
    return content
