"""Framing of syslog streams (RFC 6587) as a specification: both methods, mixed, cut anywhere, too long, cut off."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detect.syslog_framing import SyslogFrame, SyslogFramer


def frames_of(*chunks: bytes, limit: int = 64) -> list[SyslogFrame]:
    framer = SyslogFramer(limit)
    return [frame for chunk in chunks for frame in framer.feed(chunk)] + framer.finish()


def texts(*chunks: bytes, limit: int = 64) -> list[bytes]:
    return [frame.text for frame in frames_of(*chunks, limit=limit)]


@pytest.mark.parametrize(
    ("stream", "messages"),
    [
        (b"<13>one\n<13>two\n", [b"<13>one", b"<13>two"]),
        (b"<13>one\r\n<13>two\r\n", [b"<13>one", b"<13>two"]),
        (b"<13>one\0<13>two\0", [b"<13>one", b"<13>two"]),
        (b"7 <13>one7 <13>two", [b"<13>one", b"<13>two"]),
        (b"7 <13>one\n7 <13>two\n", [b"<13>one", b"<13>two"]),
        (b"11 <13>a\nb\0c\r\n", [b"<13>a\nb\0c\r\n"]),
        (b"<13>one\n7 <13>two<13>three\n", [b"<13>one", b"<13>two", b"<13>three"]),
        (b"\n\n\0\r\n<13>one\n\n", [b"<13>one"]),
        (b"<13>last without trailer", [b"<13>last without trailer"]),
        (b"no priority at all\n", [b"no priority at all"]),
        (b"2024-01-01 starts with a digit\n", [b"2024-01-01 starts with a digit"]),
        (b"12 monkeys\n", [b"12 monkeys"]),
        (b"99999999 <13>not a count\n", [b"99999999 <13>not a count"]),
        (b"007 <13>one\n", [b"007 <13>one"]),
        (b"", []),
        (b"12", [b"12"]),
        (b"12 ", [b"12 "]),
    ],
)
def test_messages_end_where_their_framing_says(stream: bytes, messages: list[bytes]) -> None:
    assert texts(stream) == messages


def test_a_line_over_the_limit_is_cut_there_and_its_length_told() -> None:
    assert frames_of(b"<13>" + b"x" * 100 + b"\n<13>next\n", limit=10) == [
        SyslogFrame(b"<13>xxxxxx", 104),
        SyslogFrame(b"<13>next", 8),
    ]


def test_a_counted_message_over_the_limit_is_cut_there_and_the_next_one_is_whole() -> None:
    assert frames_of(b"104 <13>" + b"x" * 100 + b"8 <13>next", limit=10) == [
        SyslogFrame(b"<13>xxxxxx", 104),
        SyslogFrame(b"<13>next", 8),
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0", b""])
def test_a_line_of_exactly_the_limit_is_whole(end: bytes) -> None:
    (frame,) = frames_of(b"0123456789" + end, limit=10)
    assert frame == SyslogFrame(b"0123456789", 10)
    assert not frame.cut


def test_a_stream_that_ends_inside_a_counted_message_gives_what_came_and_says_so() -> None:
    (frame,) = frames_of(b"20 <13>half")
    assert (frame.text, frame.octets, frame.cut) == (b"<13>half", 20, True)


def test_memory_stays_within_the_limit_whatever_comes() -> None:
    framer = SyslogFramer(100)
    for _ in range(1000):
        assert framer.feed(b"x" * 1000) == []
        assert framer.held <= 101
    assert framer.finish() == [SyslogFrame(b"x" * 100, 1_000_000)]


def test_a_framer_is_fresh_after_its_end() -> None:
    framer = SyslogFramer(10)
    framer.feed(b"20 <13>half")
    framer.finish()
    assert framer.feed(b"<13>new\n") == [SyslogFrame(b"<13>new", 7)]
    with pytest.raises(ValueError, match="at least one byte"):
        SyslogFramer(0)


@given(
    stream=st.lists(
        st.sampled_from(
            [b"<13>a", b"\n", b"\r", b"\0", b"7 <13>one", b"12", b" ", b"<", b"3 <12", b"9", b"x" * 9, b"\xff"]
        )
    ).map(b"".join)
    | st.binary(max_size=60),
    cuts=st.lists(st.integers(0, 400), max_size=8),
    limit=st.integers(1, 20),
)
@example(stream=b"<13>12345\r\n", cuts=[10], limit=9)
@example(stream=b"1 <", cuts=[1, 2], limit=5)
def test_any_cutting_of_the_stream_gives_the_same_messages(stream: bytes, cuts: list[int], limit: int) -> None:
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    chunks = [stream[start:end] for start, end in itertools.pairwise(places)]
    assert frames_of(*chunks, limit=limit) == frames_of(stream, limit=limit)


@given(messages=st.lists(st.binary(max_size=30)), counted=st.lists(st.booleans(), min_size=30, max_size=30))
def test_messages_come_out_as_they_went_in(messages: list[bytes], counted: list[bool]) -> None:
    sent = [b"<13>" + message.translate(None, b"\n\0\r") for message in messages]
    stream = b"".join(
        b"%d %s" % (len(message), message) if count else message + b"\n"
        for message, count in zip(sent, counted, strict=False)
    )
    assert texts(stream) == sent[: len(counted)]
