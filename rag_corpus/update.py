"""Reads an official ATT&CK bundle that an operator brings (`enterprise-attack-X.Y.json`, also .gz or .xz).

The corpus it gives goes to `build_index` like the packaged one: changed texts are embedded, the rest is in the cache.
"""

from __future__ import annotations

import gzip
import lzma
import re
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from rag_corpus.attack import AttackCorpus, CorpusError
from rag_corpus.corpus import corpus_of
from rag_corpus.stix import read_bundle

_MAXIMUM_BYTES = 200 * 2**20
_VERSION_IN_NAME = re.compile(r"attack-v?(\d+(?:\.\d+)?)\.json")


def load_bundle_file(path: Path) -> AttackCorpus:
    """The corpus of one bundle file, at most 200 MiB unpacked.

    The version is the bundle's own, or the one in the file's name where the bundle states none. Raises CorpusError
    when the file cannot be read, is too large, or is no ATT&CK bundle.
    """
    named = _VERSION_IN_NAME.search(path.name)
    return corpus_of(read_bundle(_read(path), str(path), named.group(1) if named else None), None)


def refuse_downgrade(current: str, candidate: str) -> None:
    """Raises CorpusError when version `candidate` is older than `current` (`18.1` style; "none" is oldest)."""
    if _number(candidate) < _number(current):
        raise CorpusError(f"ATT&CK {candidate} is older than {current}, which is in use")


def _read(path: Path) -> bytes:
    try:
        with _open(path) as file:
            data = file.read(_MAXIMUM_BYTES + 1)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise CorpusError(f"cannot read {path}: {error}") from error
    if len(data) > _MAXIMUM_BYTES:
        raise CorpusError(f"{path} is larger than {_MAXIMUM_BYTES // 2**20} MiB unpacked")
    return data


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".xz":
        return cast(BinaryIO, lzma.open(path, "rb"))
    return path.open("rb")


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
