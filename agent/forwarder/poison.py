"""What lies in poison/: batches that the server refused for ever, and what their owner can do about each of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, get_args

from agent.forwarder.batch import MOST_LIVES, BodyEncoding, BodyKind
from agent.spool_aside import AsideFolder

_NAME: Final = re.compile(r"[0-9a-f]{32}-[1-9][0-9]{0,18}", re.ASCII)


class NotPoisoned(Exception):
    """Nothing of this name lies there."""


class UnfitToSend(Exception):
    """It lies there, and cannot be sent anew; the message says why."""


@dataclass(frozen=True, slots=True)
class Poisoned:
    """A batch to send anew, in its next life; the rest as in Batch."""

    kind: BodyKind
    encoding: BodyEncoding
    arrived_ms: int
    body: bytes
    masked: bool
    life: int


@dataclass(frozen=True, slots=True)
class Refused:
    """What is known of a batch in poison/. `answer` is what the server said; `unsettled`: an attempt before it went
    unanswered, so the server may have the batch after all. `since_ms` is when it came, in ms since the epoch."""

    name: str
    reason: str
    answer: str
    records: int
    since_ms: int
    size: int
    life: int
    unsettled: bool


def read_poisoned(folder: AsideFolder, name: str) -> Poisoned:
    """The batch of this name. Raises NotPoisoned, UnfitToSend."""
    if not _NAME.fullmatch(name):
        raise NotPoisoned("a batch in poison/ has a name of 32 hexadecimal digits, a hyphen and a number")
    try:
        content, note = folder.get(name)
    except FileNotFoundError as error:
        raise NotPoisoned(f"there is no {name} in poison/") from error
    except (OSError, ValueError) as error:
        raise UnfitToSend(f"{name} in poison/ cannot be read: {error}") from error
    kind: Any = note.get("kind")
    encoding: Any = note.get("encoding")
    life = _whole(note, "life") + 1
    if kind not in get_args(BodyKind) or encoding not in get_args(BodyEncoding):
        raise UnfitToSend(f"{name} could not be read as a batch: look at it, then drop it")
    if life > MOST_LIVES:
        raise UnfitToSend(f"{name} was sent anew {life - 1} times: drop it")
    return Poisoned(kind, encoding, _whole(note, "arrived_ms"), content, note.get("masked") is True, life)


def refused(folder: AsideFolder) -> Iterator[Refused]:
    """Everything in poison/, by name. A note that cannot be read is shown as such. Raises OSError."""
    for path in sorted(folder.folder.glob("*.json")):
        try:
            content, note = folder.get(path.stem)
        except FileNotFoundError:
            continue  # it was sent anew meanwhile, or dropped
        except (OSError, ValueError) as error:
            yield Refused(path.stem, "unreadable", str(error)[:200], 0, 0, 0, 0, unsettled=True)
            continue
        yield Refused(
            path.stem,
            str(note.get("reason", "")),
            str(note.get("answer") or note.get("detail") or ""),
            _whole(note, "records"),
            _whole(note, "arrived_ms"),
            len(content),
            _whole(note, "life"),
            unsettled=note.get("unsettled") is not False,
        )


def _whole(note: dict[str, Any], name: str) -> int:
    found = note.get(name)
    return found if isinstance(found, int) and found >= 0 else 0
