"""Messages between a hunt and its workers: MessagePack behind a length, over pipes. Nothing else can be in them."""

from __future__ import annotations

from typing import IO, Final

import msgspec

from hunt.judge import Result, Scope
from hunt.rule_book import RuleChoice
from hunt.units import DataUnit, FileUnit, RangeUnit

_LENGTH: Final = 8


class Setup(msgspec.Struct, tag="setup", frozen=True):
    """The first message to a worker: what to judge by. `cache` is the folder of compiled rules, "" for none."""

    sources: list[tuple[str, str]]
    choice: RuleChoice
    scope: Scope
    correlate: bool
    stats: bool
    cache: str


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The worker has loaded the rules."""


class Partial(msgspec.Struct, tag="partial", frozen=True):
    """A result of the unit at hand; more may follow."""

    result: Result


class Done(msgspec.Struct, tag="done", frozen=True):
    """The unit at hand is finished."""


class Defect(msgspec.Struct, tag="defect", frozen=True):
    """The worker met an error that nobody expected, and ends."""

    error: str


ToWorker = Setup | RangeUnit | FileUnit | DataUnit
FromWorker = Ready | Partial | Done | Defect

TO_WORKER = msgspec.msgpack.Decoder(ToWorker)
FROM_WORKER = msgspec.msgpack.Decoder(FromWorker)


def send(stream: IO[bytes], message: ToWorker | FromWorker) -> int:
    """Writes one message; its length in bytes. Raises OSError when the other side is gone."""
    data = msgspec.msgpack.encode(message)
    stream.write(len(data).to_bytes(_LENGTH, "big"))
    stream.write(data)
    stream.flush()
    return len(data)


def receive(stream: IO[bytes]) -> bytes | None:
    """The next message, encoded; None when the other side is gone."""
    head = stream.read(_LENGTH)
    if len(head) < _LENGTH:
        return None
    length = int.from_bytes(head, "big")
    data = stream.read(length)
    return data if len(data) == length else None
