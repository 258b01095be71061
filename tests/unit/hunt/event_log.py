"""A small Windows event log (EVTX) written from the published format, without templates: one chunk of plain BinXML."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence

_CHUNK = 65536
_FIRST_RECORD = 512


def event_log(events: Sequence[Mapping[str, str]], channel: str, event_id: int) -> bytes:
    """An event log whose events have that channel and id, and the given named data."""
    records = bytearray()
    last = _FIRST_RECORD
    for number, data in enumerate(events, start=1):
        last = _FIRST_RECORD + len(records)
        body = _Event(last + 24).written(data, channel, event_id, number)
        size = 24 + len(body) + 4
        head = struct.pack("<4sIQQ", b"**\0\0", size, number, 133_000_000_000_000_000 + number * 10**7)
        records += head + body + struct.pack("<I", size)
    return _file_header(len(events)) + _chunk(bytes(records), len(events), last)


def _file_header(count: int) -> bytes:
    head = struct.pack("<8sQQQIHHHH", b"ElfFile\0", 0, 0, count + 1, 128, 1, 3, 4096, 1).ljust(120, b"\0")
    return (head + struct.pack("<II", 0, zlib.crc32(head))).ljust(4096, b"\0")


def _chunk(records: bytes, count: int, last: int) -> bytes:
    free = _FIRST_RECORD + len(records)
    head = struct.pack("<8sQQQQIIII", b"ElfChnk\0", 1, count, 1, count, 128, last, free, zlib.crc32(records)).ljust(
        120, b"\0"
    )
    tables = bytes(_FIRST_RECORD - 128)
    checksum = struct.pack("<II", 0, zlib.crc32(head + tables))
    return (head + checksum + tables + records).ljust(_CHUNK, b"\0")


class _Event:
    """One event's BinXML; names are written where they are used, and never referred to again."""

    def __init__(self, offset: int) -> None:
        self._start = offset
        self._out = bytearray(b"\x0f\x01\x01\x00")

    def written(self, data: Mapping[str, str], channel: str, event_id: int, number: int) -> bytes:
        self._open("Event", {"xmlns": "http://schemas.microsoft.com/win/2004/08/events/event"})
        self._open("System", {})
        self._open("Provider", {"Name": "Microsoft-Windows-Sysmon"})
        self._end()
        self._text("EventID", str(event_id))
        self._open("TimeCreated", {"SystemTime": f"2026-11-22T08:00:{number:02d}.000Z"})
        self._end()
        self._text("Channel", channel)
        self._text("Computer", "ws-1")
        self._end()
        self._open("EventData", {})
        for name, value in data.items():
            self._open("Data", {"Name": name})
            self._value(value)
            self._end()
        self._end()
        self._end()
        return bytes(self._out + b"\x00")

    def _open(self, name: str, attributes: Mapping[str, str]) -> None:
        self._out += struct.pack("<BI", 0x41 if attributes else 0x01, 0)
        self._name(name)
        if attributes:
            self._out += struct.pack("<I", 0)
            for number, (key, value) in enumerate(attributes.items(), start=1):
                self._out += b"\x06" if number == len(attributes) else b"\x46"
                self._name(key)
                self._value(value)
        self._out += b"\x02"

    def _text(self, name: str, value: str) -> None:
        self._open(name, {})
        self._value(value)
        self._end()

    def _end(self) -> None:
        self._out += b"\x04"

    def _value(self, text: str) -> None:
        self._out += struct.pack("<BBH", 0x05, 0x01, len(text)) + text.encode("utf-16-le")

    def _name(self, name: str) -> None:
        here = self._start + len(self._out) + 4
        self._out += struct.pack("<IIHH", here, 0, 0, len(name)) + name.encode("utf-16-le") + b"\0\0"
