"""Dead letters: what failed in judging, parked by name with its reason, bounded, and worked on by people.

A few failures of a kind are kept one by one. Beyond that they are counted in one folded row for each hour of receipt,
so that a rule that fails on a million records makes a few rows and an exact number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from detect.batch import BatchOutput, Poison, Stage
from detect.retry import Parked
from store.audit import append_audit
from store.journal import JournalRow
from store.paging import Page, decode_time_and_id, encode_cursor, page_size
from store.postgres import TenantTransaction
from store.queries import sql
from store.values import iso_time, key_text, text

LetterState = Literal["open", "retrying", "retried", "fixed", "discarded"]

PER_SUBJECT = 20
PER_STAGE = 200
MANY_SUBJECTS = "*"
"""The subject of a folded row when a stage failed on too many different subjects to name them."""

_Kind = tuple[datetime, Stage, str]


class LetterNotFound(Exception):
    """The tenant has no such dead letter."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One row. It stands for `count` failures: of one record, of those at `positions`, or (folded) of an hour."""

    letter_id: UUID
    seq: int
    position: int
    stage: Stage
    subject: str
    error: str
    state: LetterState
    count: int
    positions: str
    folded: bool
    last_seq: int
    hour: datetime
    attempts: int
    retry_seq: int | None
    settled_by: str | None
    settled_at: datetime | None
    created_at: datetime

    @property
    def parked(self) -> Parked:
        """What the detector needs to know of it to judge again."""
        return Parked(self.seq, self.position, self.stage, self.subject, self.count, self.positions)


FOLDED_POSITION = -2
"""Where a folded row stands in the batch at whose judging it began: no record has this position, and no batch."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What failed, the batch at whose judging it did (another than its own for a retry), and that batch's hour."""

    poison: Poison
    judged_seq: int
    hour: datetime


@dataclass(frozen=True, slots=True)
class Fold:
    """Failures of one kind that are only counted; `last_seq` is the batch of the latest."""

    first: Failure
    subject: str
    count: int
    last_seq: int


def hour_of(received: datetime) -> datetime:
    """The hour of receipt that a failure belongs to."""
    return received.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def folded(failures: Iterable[Failure], stored: Mapping[_Kind, int]) -> tuple[list[Failure], list[Fold]]:
    """Splits failures into letters of their own and counts; `stored` are the letters there are of each kind.

    The sum of the counts of both is that of the failures. Subjects are as the table holds them.
    """
    of_subject = Counter(dict(stored))
    of_stage: Counter[tuple[datetime, Stage]] = Counter()
    for (hour, stage, _), letters in stored.items():
        of_stage[hour, stage] += letters
    kept: dict[tuple[int, int, Stage, str], Failure] = {}
    folds: dict[_Kind, Fold] = {}
    for failure in failures:
        poison, hour = failure.poison, failure.hour
        key = (poison.seq, poison.position, poison.stage, poison.subject)
        kind = (hour, poison.stage, poison.subject)
        if key in kept:
            known = kept[key]
            count = known.poison.count + poison.count
            kept[key] = Failure(msgspec.structs.replace(known.poison, count=count), known.judged_seq, hour)
        elif of_stage[hour, poison.stage] < PER_STAGE and of_subject[kind] < PER_SUBJECT:
            kept[key] = failure
            of_subject[kind] += 1
            of_stage[hour, poison.stage] += 1
        else:
            subject = poison.subject if of_subject[kind] else MANY_SUBJECTS
            fold = folds.get((hour, poison.stage, subject)) or Fold(failure, subject, 0, failure.judged_seq)
            folds[hour, poison.stage, subject] = Fold(
                fold.first, subject, fold.count + poison.count, max(fold.last_seq, failure.judged_seq)
            )
    return list(kept.values()), list(folds.values())


async def store_dead_letters(
    tx: TenantTransaction, outputs: Sequence[BatchOutput], received: Mapping[int, datetime]
) -> None:
    """Parks what failed in these outputs, and notes how their retries went. As the app role."""
    failures = [
        Failure(
            msgspec.structs.replace(item, subject=key_text(item.subject)), output.seq, hour_of(received[output.seq])
        )
        for output in outputs
        for item in output.poison
    ]
    if failures:
        rows = await tx.connection.fetch(sql("dead_letter_hours"), sorted({failure.hour for failure in failures}))
        stored = {(row["hour"], row["stage"], row["subject"]): row["letters"] for row in rows}
        letters, folds = folded(failures, stored)
        if letters:
            await tx.connection.execute(sql("dead_letter_insert"), tx.tenant, *_letter_columns(letters))
        if folds:
            await tx.connection.execute(sql("dead_letter_fold"), tx.tenant, *_fold_columns(folds))
    retried = [item for output in outputs for item in output.retried]
    if retried:
        await tx.connection.execute(
            sql("dead_letter_outcome"),
            [item.seq for item in retried],
            [item.position for item in retried],
            [item.stage for item in retried],
            [key_text(item.subject) for item in retried],
            [text(item.error) for item in retried],
        )


def _letter_columns(letters: Sequence[Failure]) -> tuple[list[Any], ...]:
    poison = [failure.poison for failure in letters]
    return (
        [item.seq for item in poison],
        [item.position for item in poison],
        [item.stage for item in poison],
        [item.subject for item in poison],
        [text(item.error) for item in poison],
        [item.count for item in poison],
        [item.positions for item in poison],
        [failure.hour for failure in letters],
    )


def _fold_columns(folds: Sequence[Fold]) -> tuple[list[Any], ...]:
    first = [fold.first.poison for fold in folds]
    return (
        [fold.first.judged_seq for fold in folds],
        [FOLDED_POSITION for _ in folds],
        [item.stage for item in first],
        [fold.subject for fold in folds],
        [text(f"{item.error} (first at {item.seq}-{max(item.position, 0)})") for item in first],
        [fold.count for fold in folds],
        [fold.last_seq for fold in folds],
        [fold.first.hour for fold in folds],
    )


async def list_letters(
    tx: TenantTransaction, state: LetterState | None, stage: Stage | None, limit: int, cursor: str | None = None
) -> Page:
    """Dead letters, newest first. Raises InvalidCursor."""
    after = decode_time_and_id("dead letters", cursor)
    size = page_size(limit)
    rows = await tx.connection.fetch(sql("dead_letter_list"), state, stage, *after, size + 1)
    letters = [DeadLetter(**row) for row in rows[:size]]
    more = encode_cursor("dead letters", letters[-1].created_at, letters[-1].letter_id) if len(rows) > size else None
    return Page([letter_view(letter) for letter in letters], more)


async def read_letter(tx: TenantTransaction, letter_id: UUID, *, lock: bool = False) -> DeadLetter:
    """One dead letter; `lock` keeps others from settling it until the transaction ends. Raises LetterNotFound."""
    row = await tx.connection.fetchrow(sql("dead_letter_lock" if lock else "dead_letter_read"), letter_id)
    if row is None:
        raise LetterNotFound(f"this tenant has no dead letter {letter_id}")
    return DeadLetter(**row)


async def settle_letter(
    tx: TenantTransaction, letter: DeadLetter, state: LetterState, *, actor: str, seq: int | None = None, **detail: Any
) -> None:
    """Moves a locked letter to another state, with an audit row; `seq` is the batch that does it, if one does."""
    await tx.connection.execute(sql("dead_letter_settle"), letter.letter_id, state, text(actor), seq)
    said = {"from": letter.state, "stage": letter.stage, "subject": letter.subject, "seq": letter.seq, "by_seq": seq}
    await append_audit(tx, actor, f"dead_letter.{state}", f"dead_letter:{letter.letter_id}", said | detail)


async def read_batch(tx: TenantTransaction, seq: int) -> JournalRow | None:
    """The batch that a letter is about; None when it has been pruned."""
    row = await tx.connection.fetchrow(sql("dead_letter_batch"), seq)
    return None if row is None else JournalRow(**{**row, "received": row["received"].astimezone(UTC)})


def letter_view(letter: DeadLetter) -> dict[str, Any]:
    """A letter as JSON."""
    moments = {name: getattr(letter, name) for name in ("hour", "settled_at", "created_at")}
    shown = {name: getattr(letter, name) for name in DeadLetter.__slots__ if name not in moments}
    return (
        shown
        | {"letter_id": str(letter.letter_id)}
        | {name: None if moment is None else iso_time(moment) for name, moment in moments.items()}
    )
