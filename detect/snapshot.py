"""The form of a detector snapshot: a mark, the format number (2 bytes), then zstd with checksum over msgpack.

Format 2 holds the evidence of correlations once for all of them, with binary digests; a contribution names its
evidence by number. Format 1 repeated it in each contribution. Format 3 has the open windows of folded floods. Format 4
has the last firings of a group of a correlation, and its long texts cut. Older formats are read: snapshot_migrations
brings them up, one format at a time.
"""

from __future__ import annotations

from typing import Any

import msgspec
import zstandard

from detect.snapshot_migrations import migrated

FORMAT = 4
_MARK = b"trustsoc-detector"
_LEVEL = 3
# A snapshot is ours, but it passes through a database: what it may inflate to is bounded all the same.
_MAX_CONTENT_BYTES = 2**31


class UnknownSnapshotFormat(ValueError):
    """The snapshot was written by a newer version. `found` is its format."""

    def __init__(self, found: int) -> None:
        super().__init__(
            f"the snapshot has format {found}, this program reads format {FORMAT} and older: "
            "run the version that wrote it, or delete the snapshot to replay the journal"
        )
        self.found = found


def pack_snapshot(version: int, content: dict[str, Any]) -> bytes:
    """Equal content, with keys in equal order, gives equal bytes (for one version of the zstd library)."""
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    return _MARK + version.to_bytes(2, "big") + compressor.compress(msgspec.msgpack.encode(content))


def unpack_snapshot(version: int, state: bytes) -> dict[str, Any]:
    """The content in format `version`, migrated from an older one where need be.

    UnknownSnapshotFormat for a newer one; ValueError that says what is wrong for bytes that are damaged or no snapshot.
    """
    found = snapshot_format(state)
    if found > version:
        raise UnknownSnapshotFormat(found)
    packed = state[len(_MARK) + 2 :]
    try:
        content = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(packed, _MAX_CONTENT_BYTES))
    except (zstandard.ZstdError, msgspec.DecodeError) as error:
        raise ValueError(f"the snapshot is damaged ({error}): delete it to replay the journal") from error
    if not isinstance(content, dict):
        raise ValueError("the snapshot is damaged (no mapping): delete it to replay the journal")
    try:
        return migrated(content, found, version)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"the snapshot of format {found} cannot be migrated ({type(error).__name__}: {error}): "
            "delete it to replay the journal"
        ) from error


def snapshot_format(state: bytes) -> int:
    """The format number of a snapshot; ValueError for bytes that are none."""
    if not state.startswith(_MARK) or len(state) < len(_MARK) + 2:
        raise ValueError("this is no detector snapshot: replay the journal from its beginning")
    return int.from_bytes(state[len(_MARK) : len(_MARK) + 2], "big")
