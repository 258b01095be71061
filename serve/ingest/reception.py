"""What every HTTP door beside OTLP does with a request before it looks at its protocol: who sends, and the whole body.

The same promises as OTLP's: sizes are limited as sent and as inflated, and nothing that will pass is a final answer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from serve.errors import WireError
from serve.ingest.admission import Ticket
from serve.ingest.body import check_declared_length, content_encoding, read_body, read_out
from serve.ingest.intake import Intake, Sender, on_account_of
from serve.ingest.otlp_conversion import MOST_RECORDS
from serve.ingest.otlp_http import IngestLimits
from serve.ingest.senders import SenderCheck
from store.journal import Encoding

T = TypeVar("T")

_ON_THE_LOOP: Final = 64 * 1024  # bytes: about 3 ms of parsing and converting
_TEXT: Final = re.compile(rb"\S[^\n]*")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line that is not blank; `number` counts from 1 and counts blank lines too."""

    number: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request whose headers are in order. `declared` is its Content-Length, None where it states none."""

    sender: Sender
    declared: int | None
    _confirm: Callable[[bytes], Awaitable[None]]
    _encoding: Encoding
    _limits: IngestLimits

    @asynccontextmanager
    async def place(self, intake: Intake) -> AsyncIterator[Ticket]:
        """Holds a place among the requests in work until the answer is made; raises WireError 429 or 503."""
        with on_account_of(self.sender):
            async with intake.request(self.sender, self.declared) as ticket:
                yield ticket

    async def parsed(self, ticket: Ticket, stream: AsyncIterator[bytes], parse: Callable[[bytes], T]) -> T:
        """What `parse` makes of the decompressed body; large bodies are parsed beside the event loop.

        `ticket` is the request's place (Intake.request). Raises WireError, and whatever `parse` raises.
        """
        body = await read_body(stream, self._limits.compressed, self.declared)
        ticket.arrived(len(body))
        await self._confirm(body)
        plain = await read_out(body, self._encoding, self._limits.decompressed, bytes)
        if len(plain) <= _ON_THE_LOOP:
            return parse(plain)
        return await asyncio.to_thread(parse, plain)


@dataclass(frozen=True, slots=True)
class Reception:
    """Looks at the headers of requests."""

    senders: SenderCheck
    limits: IngestLimits

    async def admit(self, headers: Mapping[str, str]) -> Admitted:
        """Raises WireError for what needs no look at the body: encoding, credential, declared size."""
        encoding = content_encoding(headers.get("content-encoding", ""))
        admitted = await self.senders.admit(headers)
        with on_account_of(admitted.sender):
            declared = check_declared_length(headers.get("content-length", ""), self.limits.compressed)
        return Admitted(admitted.sender, declared, admitted.confirm, encoding, self.limits)


def lines_of(body: bytes) -> Iterator[Line]:
    """The lines that are not blank. Memory does not grow with blank ones; a byte order mark is no part of the text."""
    number, end = 1, 0
    for match in _TEXT.finditer(body):
        # Runs of blank lines are passed over by the expression; the line's own indentation is part of it.
        start = body.rfind(b"\n", end, match.start()) + 1 or end
        number += body.count(b"\n", end, start)
        end = match.end()
        text = body[start:end].removesuffix(b"\r")
        if start == 0:
            text = text.removeprefix(_BYTE_ORDER_MARK)
        if text:
            yield Line(number, text)


def too_many_records() -> WireError:
    """The refusal of a body with more records than one batch may hold."""
    return WireError(413, f"the body holds more than {MOST_RECORDS} records: send smaller batches")
