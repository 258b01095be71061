"""Counting different values in bounded memory: exact while they are few, a HyperLogLog once they are many."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable

EXACT_LIMIT = 64
"""Up to this many different values the count is exact, and the values' hashes can be listed."""

_INDEX_BITS = 10
_REGISTERS = 1 << _INDEX_BITS
_RANK_BITS = 64 - _INDEX_BITS
_RANK_MASK = (1 << _RANK_BITS) - 1
_ALPHA = 1 / (2 * math.log(2))

_CACHED_HASHES = 16_384
_CACHED_LENGTH = 256


class ValueHasher:
    """64-bit keyed BLAKE2b of a text: the same on every machine, and not for a sender to predict without the key.

    The cache changes no result; values longer than 256 characters are not kept in it.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._cache: dict[str, int] = {}

    def __call__(self, value: str) -> int:
        known = self._cache.get(value)
        if known is not None:
            return known
        digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8, key=self._key).digest()
        result = int.from_bytes(digest, "big")
        if len(value) <= _CACHED_LENGTH:
            if len(self._cache) >= _CACHED_HASHES:
                self._cache.clear()
            self._cache[value] = result
        return result


class DistinctSketch:
    """How many different 64-bit hashes were added.

    Exact up to EXACT_LIMIT, then HyperLogLog with 1,024 registers (standard error 3.3 %, 1 KiB) and Ertl's estimator
    ("New cardinality estimation algorithms for HyperLogLog sketches", 2017). The state is a function of the set of
    hashes added: neither order nor repetition nor the way it was merged matters.
    """

    __slots__ = ("_exact", "_registers")

    def __init__(self, hashes: Iterable[int] = ()) -> None:
        self._exact: set[int] = set()
        self._registers: bytearray | None = None
        for value in hashes:
            self.add(value)

    def add(self, value: int) -> None:
        """Counts one hash, 0 <= value < 2**64."""
        if self._registers is not None:
            _raise_register(self._registers, value)
            return
        self._exact.add(value)
        if len(self._exact) > EXACT_LIMIT:
            self._turn_dense()

    def merge(self, other: DistinctSketch) -> None:
        """Afterwards this sketch has counted what both have; the other one is unchanged."""
        if other._registers is None:
            for value in other._exact:
                self.add(value)
            return
        if self._registers is None:
            self._turn_dense()
        self._registers = bytearray(map(max, self._registers or b"", other._registers))

    def count(self) -> int:
        """The number of different hashes: exact up to EXACT_LIMIT, an estimate above."""
        return len(self._exact) if self._registers is None else round(_estimate(self._registers))

    def listed(self) -> list[int] | None:
        """The hashes in ascending order while the count is exact, else None."""
        return sorted(self._exact) if self._registers is None else None

    def snapshot(self) -> bytes:
        """One byte for the mode, then 8 bytes a hash or the registers."""
        if self._registers is not None:
            return b"d" + bytes(self._registers)
        return b"e" + pack_hashes(sorted(self._exact))

    @classmethod
    def restored(cls, state: bytes) -> DistinctSketch:
        """The sketch that gave this snapshot; ValueError for anything else."""
        sketch = cls()
        mode, rest = state[:1], state[1:]
        if mode == b"d" and len(rest) == _REGISTERS:
            sketch._registers = bytearray(rest)
        elif mode == b"e" and len(rest) % 8 == 0 and len(rest) // 8 <= EXACT_LIMIT:
            sketch._exact = set(unpack_hashes(rest))
        else:
            raise ValueError(f"no sketch: mode {mode!r} with {len(rest)} bytes")
        return sketch

    def _turn_dense(self) -> None:
        registers = bytearray(_REGISTERS)
        for value in self._exact:
            _raise_register(registers, value)
        self._registers = registers
        self._exact = set()


def pack_hashes(hashes: Iterable[int]) -> bytes:
    """64-bit hashes as big-endian bytes, in the order given."""
    return b"".join(value.to_bytes(8, "big") for value in hashes)


def unpack_hashes(packed: bytes) -> array[int]:
    """The inverse of pack_hashes."""
    return array("Q", (int.from_bytes(packed[at : at + 8], "big") for at in range(0, len(packed), 8)))


def _raise_register(registers: bytearray, value: int) -> None:
    index = value >> _RANK_BITS
    rank = _RANK_BITS - (value & _RANK_MASK).bit_length() + 1
    registers[index] = max(registers[index], rank)


def _estimate(registers: bytearray) -> float:
    histogram = [0] * (_RANK_BITS + 2)
    for rank in registers:
        histogram[rank] += 1
    total = _REGISTERS * _tau(1 - histogram[_RANK_BITS + 1] / _REGISTERS)
    for rank in range(_RANK_BITS, 0, -1):
        total = 0.5 * (total + histogram[rank])
    total += _REGISTERS * _sigma(histogram[0] / _REGISTERS)
    return _ALPHA * _REGISTERS * _REGISTERS / total


def _sigma(x: float) -> float:
    if x == 1.0:
        return math.inf
    weight, total, before = 1.0, x, -1.0
    while total != before:
        x, before = x * x, total
        total += x * weight
        weight += weight
    return total


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    weight, total, before = 1.0, 1 - x, -1.0
    while total != before:
        x, before = math.sqrt(x), total
        weight *= 0.5
        total -= (1 - x) ** 2 * weight
    return total / 3
