"""A journal in memory, for doors that are tested without a database."""

from __future__ import annotations

import asyncio
from typing import Any

from detect.normalize import default_normalizer
from detect.otlp import decode
from detect.record import LogRecord, NormalizedRecord
from store.journal import Appended, IdempotencyConflict, JournalEntry, JournalRow

NORMALIZER = default_normalizer()


class MemoryJournal:
    """The journal's promises for one process: keys are unique per agent, a repeat gets the first seq.

    `trouble` is raised until it is taken away, `answer_lost` once, after the batch was stored. `refusals` counts the
    attempts that met trouble; `changed` is set at every attempt.
    """

    def __init__(self) -> None:
        self.rows: list[JournalEntry] = []
        self.trouble: Exception | None = None
        self.answer_lost: Exception | None = None
        self.refusals = 0
        self.changed = asyncio.Event()

    async def append(self, entry: JournalEntry) -> Appended:
        self.changed.set()
        if self.trouble is not None:
            self.refusals += 1
            raise self.trouble
        appended = self._append(entry)
        if self.answer_lost is not None:
            lost, self.answer_lost = self.answer_lost, None
            raise lost
        return appended

    def _append(self, entry: JournalEntry) -> Appended:
        for seq, row in enumerate(self.rows, start=1):
            if (row.tenant, row.agent, row.idempotency_key) == (entry.tenant, entry.agent, entry.idempotency_key):
                if row.digest != entry.digest:
                    raise IdempotencyConflict("another body")
                return Appended(seq, duplicate=True)
        self.rows.append(entry)
        return Appended(len(self.rows), duplicate=False)

    def records(self) -> list[LogRecord]:
        """What detectors read from all batches, in order."""
        return [record for seq, entry in enumerate(self.rows, start=1) for record in decode(_row(seq, entry).batch())]

    def normalized(self) -> list[NormalizedRecord]:
        return [NORMALIZER.normalize(record) for record in self.records()]

    def bodies(self) -> list[Any]:
        return [record.body for record in self.records()]


def _row(seq: int, entry: JournalEntry) -> JournalRow:
    return JournalRow(
        seq=seq,
        received=entry.received,
        agent=entry.agent,
        idempotency_key=entry.idempotency_key,
        digest=entry.digest,
        kind=entry.kind,
        encoding=entry.encoding,
        records=entry.records,
        payload=entry.payload,
    )
