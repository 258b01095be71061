"""Rule packs: the sources of a rule set as one deterministic blob, and the starter pack that ships with the program."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable

MAGIC = b"TSRP1\n"
MAX_PACK_BYTES = 128 << 20


class BadPack(ValueError):
    """Bytes that are not a rule pack, or one that unpacks to more than the bound."""


def source_digest(sources: Sequence[tuple[str, str]]) -> str:
    """SHA-256 in hex over the sources sorted by path; lengths are part of it, so nothing can shift between fields."""
    digest = hashlib.sha256()
    for path, text in sorted(sources):
        for part in (path.encode("utf-8", "surrogatepass"), text.encode("utf-8", "surrogatepass")):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def pack_bytes(sources: Sequence[tuple[str, str]]) -> bytes:
    """(path, text) pairs as one blob: JSON sorted by path, deflated. Equal sources give equal bytes."""
    content = json.dumps([list(pair) for pair in sorted(sources)], ensure_ascii=True, separators=(",", ":"))
    return MAGIC + zlib.compress(content.encode("ascii"), 9)


def unpack(data: bytes) -> list[tuple[str, str]]:
    """The inverse of pack_bytes. Raises BadPack; never holds more than 128 MiB of unpacked text."""
    if not data.startswith(MAGIC):
        raise BadPack("not a rule pack of a version that this program reads")
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data[len(MAGIC) :], MAX_PACK_BYTES)
    except zlib.error as error:
        raise BadPack(f"the rule pack is damaged: {error}") from error
    if inflater.unconsumed_tail:
        raise BadPack(f"the rule pack unpacks to more than {MAX_PACK_BYTES} bytes")
    if not inflater.eof or inflater.unused_data:
        raise BadPack("the rule pack is cut off or followed by other data")
    try:
        pairs = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadPack(f"the rule pack is damaged: {error}") from error
    if not isinstance(pairs, list):
        raise BadPack("the rule pack does not hold a list of sources")
    return [_source(pair) for pair in pairs]


def unpacks_to_at_most(data: bytes, size: int) -> bool:
    """Whether the bytes are a pack of at most so many unpacked; no more than those are inflated to find out."""
    if not data.startswith(MAGIC):
        return False
    inflater = zlib.decompressobj()
    try:
        inflater.decompress(data[len(MAGIC) :], size)
    except zlib.error:
        return False
    return inflater.eof


def _source(pair: object) -> tuple[str, str]:
    match pair:
        case [str(path), str(text)]:
            return path, text
        case _:
            raise BadPack("the rule pack holds something that is not a path with its text")


def starter_pack() -> list[tuple[str, str]]:
    """The rules of our own that ship with the program, as (path below starter/, YAML text), sorted."""
    return sorted(_yaml_files(files("detect.sigma").joinpath("starter"), ""))


def _yaml_files(folder: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _yaml_files(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yml"):
            yield f"{prefix}{entry.name}", entry.read_text(encoding="utf-8")
