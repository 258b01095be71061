"""Syslog messages out of a stream of bytes (RFC 6587): octet counting and trailers, told apart for every message.

A message that begins with a decimal length, a space and `<` is counted (RFC 6587 section 3.4.1, RFC 5425); any other
ends at LF, CR LF or NUL (section 3.4.2; Python's SysLogHandler writes NUL). How the stream is cut into chunks changes
nothing. Memory stays within the limit of one message: what is longer is cut there, and its true length is told.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

# Seven digits: a length that no sender means would otherwise swallow what follows.
_COUNT: Final = re.compile(rb"([1-9][0-9]{0,6}) <")
_BEGINS_COUNT: Final = re.compile(rb"[1-9][0-9]{0,6} ?\Z")
_TRAILER: Final = re.compile(rb"[\n\0]")


class SyslogFrame(NamedTuple):
    """One message. `octets` is the length that it came with (or claimed); it is more than len(text) when it was cut."""

    text: bytes
    octets: int

    @property
    def cut(self) -> bool:
        """Whether bytes of the message are missing: over the limit, or the stream ended inside it."""
        return self.octets > len(self.text)


class SyslogFramer:
    """One stream. `feed` gives the messages that are complete, `finish` the one that the end of the stream completes.

    `limit` is in bytes of one message. Empty messages are no messages; so a trailer after a counted message, as some
    senders write it, is skipped.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError("the limit of a message is at least one byte")
        self._limit = limit
        self._state: Literal["between", "counted", "line"] = "between"
        self._undecided = b""  # the first bytes of a message that may still turn out to be a count
        self._text = bytearray()
        self._octets = 0  # of the current message: as claimed (counted), or so far (line)
        self._missing = 0  # of a counted message

    @property
    def held(self) -> int:
        """Bytes of an incomplete message that are held back."""
        return len(self._text) + len(self._undecided)

    def feed(self, chunk: bytes) -> list[SyslogFrame]:
        """The messages that end within the chunk, in order."""
        data = self._undecided + chunk if self._undecided else chunk
        self._undecided = b""
        frames: list[SyslogFrame] = []
        position, size = 0, len(data)
        while position < size:
            if self._state == "line":
                position = self._take_line(data, position, frames)
            elif self._state == "counted":
                position = self._take_counted(data, position, frames)
            elif data[position] in b"\n\0":
                position += 1
            elif match := _COUNT.match(data, position):
                self._state = "counted"
                self._octets = self._missing = int(match[1])
                position = match.end() - 1
            elif _BEGINS_COUNT.match(data, position):
                self._undecided = data[position:]
                break
            else:
                self._state = "line"
        return frames

    def finish(self) -> list[SyslogFrame]:
        """What the end of the stream leaves: a last line without its trailer, or a counted message that was cut off."""
        frames: list[SyslogFrame] = []
        if self._undecided:
            self._keep(self._undecided)
            self._octets, self._undecided = len(self._undecided), b""
        if self._state == "counted":
            self._end_counted(frames)
        else:
            self._end_line(frames)
        return frames

    def _take_counted(self, data: bytes, position: int, frames: list[SyslogFrame]) -> int:
        end = min(position + self._missing, len(data))
        self._keep(data[position:end])
        self._missing -= end - position
        if not self._missing:
            self._end_counted(frames)
        return end

    def _take_line(self, data: bytes, position: int, frames: list[SyslogFrame]) -> int:
        match = _TRAILER.search(data, position)
        end = match.start() if match else len(data)
        self._keep(data[position:end])
        self._octets += end - position
        if match is None:
            return end
        self._end_line(frames)
        return end + 1

    def _keep(self, part: bytes) -> None:
        # One byte more than the limit, so that a carriage return before a trailer does not make a message too long.
        room = self._limit + 1 - len(self._text)
        if room > 0:
            self._text += part[:room]

    def _end_counted(self, frames: list[SyslogFrame]) -> None:
        frames.append(SyslogFrame(bytes(self._text[: self._limit]), self._octets))
        self._reset()

    def _end_line(self, frames: list[SyslogFrame]) -> None:
        if self._octets == len(self._text) and self._text.endswith(b"\r"):
            del self._text[-1:]
            self._octets -= 1
        if self._text:
            frames.append(SyslogFrame(bytes(self._text[: self._limit]), self._octets))
        self._reset()

    def _reset(self) -> None:
        self._state = "between"
        self._text.clear()
        self._octets = self._missing = 0
