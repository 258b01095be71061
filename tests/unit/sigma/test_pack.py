"""Rule packs: deterministic bytes, safe to unpack, no pickle."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.sigma import BadPack, pack, pack_bytes, unpack
from detect.sigma.pack import MAGIC

sources = st.lists(st.tuples(st.text(max_size=20), st.text(max_size=50)), max_size=5)


@given(sources)
def test_what_is_packed_comes_back_sorted_and_order_does_not_matter(given_sources: list[tuple[str, str]]) -> None:
    assert unpack(pack_bytes(given_sources)) == sorted(given_sources)
    assert pack_bytes(given_sources) == pack_bytes(given_sources[::-1])


def packed(value: object) -> bytes:
    return MAGIC + zlib.compress(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a rule pack"),
        (b"\x80\x04N.", "not a rule pack"),
        (MAGIC + b"nonsense", "damaged"),
        (packed([["a", "b"]])[:-6], "cut off"),
        (packed([["a", "b"]]) + b"x", "followed by"),
        (packed({"a": "b"}), "list"),
        (packed([["a"]]), "path with its text"),
        (packed([["a", 5]]), "path with its text"),
        (MAGIC + zlib.compress(b"[" * 100_000), "damaged"),
        (MAGIC + zlib.compress(b"\xff\xfe\xfd"), "damaged"),
    ],
)
def test_anything_else_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(BadPack, match=reason):
        unpack(data)


def test_a_bomb_is_stopped_at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "MAX_PACK_BYTES", 1000)
    with pytest.raises(BadPack, match="more than 1000"):
        unpack(packed([["a", "x" * 5000]]))


@given(st.binary(max_size=60))
def test_hostile_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(BadPack):
        unpack(MAGIC + data)
