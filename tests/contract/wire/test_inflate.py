"""Inflating, for every encoding: what comes out, what stops at the cap, and what hostile input costs."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from detect.inflate import MOST_FRAMES, BodyEncoding, BrokenBody, OversizedBody, inflate
from serve.errors import WireError
from serve.ingest.body import read_out
from store.journal import JournalRow
from tests.contract.wire.edge import RECEIVED_NS
from tests.contract.wire.lanes import COMPRESSORS

ENCODINGS: list[BodyEncoding] = list(COMPRESSORS)
COMPRESSED = ENCODINGS[1:]
FRAMED: list[BodyEncoding] = ["gzip", "zstd"]


@given(st.sampled_from(ENCODINGS), st.binary(max_size=20_000))
def test_bodies_come_back_as_they_were(encoding: BodyEncoding, content: bytes) -> None:
    assert inflate(COMPRESSORS[encoding](content), encoding, 20_000) == content


@given(st.sampled_from(FRAMED), st.lists(st.binary(max_size=3000), min_size=1, max_size=6))
def test_frames_follow_one_another(encoding: BodyEncoding, contents: list[bytes]) -> None:
    body = b"".join(COMPRESSORS[encoding](content) for content in contents)
    assert inflate(body, encoding, 20_000) == b"".join(contents)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_cap_is_exact(encoding: BodyEncoding) -> None:
    body = COMPRESSORS[encoding](b"x" * 5000)
    assert len(inflate(body, encoding, 5000)) == 5000
    with pytest.raises(OversizedBody, match="more than 4999 bytes"):
        inflate(body, encoding, 4999)


@given(st.sampled_from(COMPRESSED), st.binary(max_size=400))
def test_hostile_bytes_inflate_within_the_cap_or_are_refused(encoding: BodyEncoding, body: bytes) -> None:
    try:
        assert len(inflate(body, encoding, 1000)) <= 1000
    except (BrokenBody, OversizedBody) as error:
        assert str(error)


@given(st.sampled_from(COMPRESSED), st.binary(min_size=1, max_size=3000), st.data())
def test_no_proper_prefix_is_taken_for_the_whole(encoding: BodyEncoding, content: bytes, data: st.DataObject) -> None:
    body = COMPRESSORS[encoding](content)
    cut = data.draw(st.integers(1, len(body) - 1))
    with pytest.raises(BrokenBody):
        inflate(body[:cut], encoding, 10_000)


@pytest.mark.parametrize("encoding", FRAMED)
def test_a_million_empty_frames_are_refused_before_they_cost_much(encoding: BodyEncoding) -> None:
    empty = COMPRESSORS[encoding](b"")
    assert inflate(empty * 1000, encoding, 10) == b""
    with pytest.raises(BrokenBody, match=f"more than {MOST_FRAMES} frames"):
        inflate(empty * 1_000_000, encoding, 10)


def test_zstd_frames_of_any_make_are_read() -> None:
    content = b"a line of a log\n" * 5000
    streamed = zstandard.ZstdCompressor().compressobj()  # no content size in the header
    body = streamed.compress(content) + streamed.flush()
    skippable = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    checked = zstandard.ZstdCompressor(write_checksum=True).compress(content)
    assert inflate(body + skippable + checked, "zstd", 200_000) == content * 2
    with pytest.raises(BrokenBody):
        inflate(checked[:-1] + bytes([checked[-1] ^ 1]), "zstd", 200_000)


def test_a_zstd_window_larger_than_the_cap_asks_for_no_memory() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = stream.compress(b"x" * 1000) + stream.flush()
    with pytest.raises(BrokenBody, match="memory"):
        inflate(body, "zstd", 64 * 2**20)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_detector_reads_what_the_door_accepted(encoding: BodyEncoding) -> None:
    payload = COMPRESSORS[encoding](b"request")
    received = datetime.fromtimestamp(RECEIVED_NS // 10**9, UTC)
    row = JournalRow(1, received, "agent", b"k", b"d" * 32, "otlp_protobuf", encoding, 1, payload)
    assert row.batch().payload == b"request"


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_large_bodies_are_read_beside_the_event_loop(encoding: BodyEncoding) -> None:
    """However small a body is on the wire, what it inflates to must not hold up everybody else."""
    loop_thread = threading.get_ident()
    for size, on_the_loop in ((1000, True), (2 * 2**20, False)):
        body = COMPRESSORS[encoding](bytes(size))
        thread, length = await read_out(body, encoding, 2**22, lambda plain: (threading.get_ident(), len(plain)))
        assert (thread == loop_thread, length) == (on_the_loop, size)


async def test_errors_beside_the_loop_are_the_same() -> None:
    with pytest.raises(WireError) as refused:
        await read_out(bytes(2 * 2**20), "gzip", 2**22, len)
    assert refused.value.status == 400
    with pytest.raises(WireError) as refused:
        await read_out(COMPRESSORS["zstd"](bytes(5 * 2**20)), "zstd", 2**22, len)
    assert refused.value.status == 413
