"""Bodies are read and inflated under caps; what is wrong is said in a way the sender can act on."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import WireError
from serve.ingest.body import check_declared_length, content_encoding, decompress, read_body


async def parts(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_a_body_is_read_whole_up_to_its_limit() -> None:
    assert await read_body(parts(b"ab", b"", b"c"), 3) == b"abc"


async def test_a_body_is_refused_as_soon_as_it_passes_the_limit() -> None:
    seen: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            seen.append(1)
            yield b"x" * 10

    with pytest.raises(WireError, match="larger than 25 bytes") as refused:
        await read_body(endless(), 25)
    assert refused.value.status == 413
    assert len(seen) == 3


@given(st.binary(max_size=5000), st.integers(0, 9))
def test_gzip_bodies_come_back_as_they_were(content: bytes, level: int) -> None:
    assert decompress(gzip.compress(content, level), "gzip", 5000) == content


@given(st.lists(st.binary(min_size=1, max_size=400), min_size=1, max_size=4))
def test_concatenated_members_are_one_body(members: list[bytes]) -> None:
    body = b"".join(gzip.compress(member) for member in members)
    assert decompress(body, "gzip", 2000) == b"".join(members)


def test_a_bomb_stops_at_the_cap() -> None:
    bomb = gzip.compress(b"\0" * (64 * 2**20))
    with pytest.raises(WireError, match="decompressed body is larger than 1048576 bytes") as refused:
        decompress(bomb, "gzip", 2**20)
    assert refused.value.status == 413


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"not gzip at all", "not valid gzip"),
        (gzip.compress(b"hello" * 100)[:-9], "ends before its end"),
        (gzip.compress(b"hello") + b"garbage", "not valid gzip"),
    ],
)
def test_broken_gzip_is_named(body: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message) as refused:
        decompress(body, "gzip", 10_000)
    assert refused.value.status == 400


@given(st.binary(max_size=300))
def test_hostile_bytes_give_content_or_a_wire_error(body: bytes) -> None:
    try:
        assert len(decompress(body, "gzip", 1000)) <= 1000
    except WireError as error:
        assert error.status in {400, 413}


def test_only_known_encodings_are_taken() -> None:
    assert content_encoding("") == "identity"
    assert content_encoding(" GZIP ") == "gzip"
    with pytest.raises(WireError) as refused:
        content_encoding("br")
    assert refused.value.status == 415


@pytest.mark.parametrize(("header", "status"), [("99", 413), ("-1", 400), ("1e3", 400), ("٣", 400)])
def test_a_declared_length_is_checked_before_the_body_is_read(header: str, status: int) -> None:
    with pytest.raises(WireError) as refused:
        check_declared_length(header, 50)
    assert refused.value.status == status
