"""The memory of jobs: whatever ends the process, what was started is never forgotten before it may be."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import executed
from agent.executed import ExecutedJobs, JournalBusy, MemoryFull, Outcome, RememberedJob
from agent.jobs import Job

NOW = 1_767_225_600_000
DAY = 86_400_000
LEASE = uuid.UUID("99999999-2222-4333-8444-555555555555")


def job(number: int, **changes: Any) -> Job:
    made = Job(
        id=uuid.UUID(int=number),
        tenant=uuid.UUID(int=1),
        agent="web-1",
        type="PING",
        args={"number": number},
        issued_at=NOW,
        not_before=NOW,
        expires_at=NOW + 60_000,
        idempotency_key=f"job-{number}",
        key_id="jk-1",
    )
    return replace(made, **changes)


OUTCOME = Outcome("succeeded", "", "", "pong\n", False, NOW + 1, NOW + 2, {"a": [1, "ü"]})


@contextmanager
def opened(folder: Path, now: int = NOW) -> Iterator[ExecutedJobs]:
    with closing(ExecutedJobs(folder, now)) as journal:
        yield journal


def known(journal: ExecutedJobs, number: int) -> RememberedJob:
    found = journal.find(uuid.UUID(int=number))
    assert found is not None
    return found


def story(journal: ExecutedJobs) -> None:
    """One job of every stage."""
    for number in range(1, 6):
        journal.start(job(number), lease=LEASE, attempt=1, now_ms=NOW + number)
    journal.checkpoint(known(journal, 2), {"step": "switch"})
    journal.finish(known(journal, 3), OUTCOME)
    journal.finish(known(journal, 4), OUTCOME)
    journal.acknowledge(known(journal, 4), NOW)
    journal.finish(known(journal, 5), replace(OUTCOME, state="rejected", reason="over_rate"))


def test_what_was_noted_is_known_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        story(journal)
    # The second opening reads the journal as the first one wrote it anew.
    for _ in range(2):
        with opened(tmp_path) as journal:
            assert [found.id.int for found in journal.unfinished()] == [1, 2]
            assert [found.id.int for found in journal.unacknowledged()] == [3, 5]
            assert known(journal, 2).checkpoint == {"step": "switch"}
            assert known(journal, 3).outcome == OUTCOME
            assert known(journal, 1).job == job(1)
            assert (known(journal, 1).lease, known(journal, 1).attempt) == (LEASE, 1)
            assert journal.find_key("job-4") is known(journal, 4)
            assert journal.starts("PING") == [NOW + 1, NOW + 2, NOW + 3, NOW + 4]


@given(st.data())
def test_a_journal_cut_anywhere_holds_all_that_was_noted_before_the_cut(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = folder / "jobs.journal"
    sizes = []
    with opened(folder) as journal:
        for number in range(1, 5):
            journal.start(job(number), lease=LEASE, attempt=1, now_ms=NOW)
            sizes.append(path.stat().st_size)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    with opened(folder) as journal:
        kept = [found.id.int for found in journal.unfinished()]
        assert kept == [number for number, size in enumerate(sizes, 1) if size <= cut]
        assert not journal.damaged
        assert not journal.forgotten(job(9))
        # It goes on where it was cut.
        journal.start(job(7), lease=LEASE, attempt=1, now_ms=NOW)
    with opened(folder) as journal:
        assert [found.id.int for found in journal.unfinished()] == [*kept, 7]


@given(st.data())
def test_damage_before_the_end_loses_no_other_job_and_refuses_what_was_issued_before(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    path = folder / "jobs.journal"
    with opened(folder) as journal:
        for number in range(1, 4):
            journal.start(job(number), lease=LEASE, attempt=1, now_ms=NOW)
    lines = path.read_bytes().splitlines(keepends=True)
    line = data.draw(st.integers(1, len(lines) - 2))
    place = data.draw(st.integers(0, len(lines[line]) - 2))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte not in (lines[line][place], 10)))
    lines[line] = lines[line][:place] + bytes([byte]) + lines[line][place + 1 :]
    path.write_bytes(b"".join(lines))
    with opened(folder, NOW + 5000) as journal:
        assert journal.damaged
        assert [found.id.int for found in journal.unfinished()] == [n for n in (1, 2, 3) if n != line]
        assert journal.forgotten(job(line))
        assert not journal.forgotten(job(9, issued_at=NOW + 5000))
    assert list(folder.glob("jobs.damaged-*"))
    with opened(folder, NOW + 9000) as journal:
        assert not journal.damaged
        assert journal.forgotten(job(line))


def test_a_job_is_remembered_beyond_its_expiry_and_refused_once_it_is_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        story(journal)
    with opened(tmp_path, NOW + DAY) as journal:
        assert journal.find(uuid.UUID(int=3)) is not None
    with opened(tmp_path, NOW + DAY + 60_001) as journal:
        assert journal.find(uuid.UUID(int=3)) is None
        assert [found.id.int for found in journal.unfinished()] == [1, 2], "what has not ended is kept"
        # Even if the clock went back to when the job was valid.
        assert journal.forgotten(job(3))
    with opened(tmp_path, NOW) as journal:
        assert journal.forgotten(job(3))


def test_the_output_of_an_acknowledged_result_is_let_go(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        story(journal)
    with opened(tmp_path) as journal:
        assert known(journal, 4).outcome == replace(OUTCOME, output="", output_truncated=True)
        assert known(journal, 3).outcome == OUTCOME


def test_a_job_that_comes_again_under_another_lease_is_told_again(tmp_path: Path) -> None:
    other = uuid.uuid4()
    with opened(tmp_path) as journal:
        story(journal)
        journal.lease(known(journal, 4), LEASE, 1)
        assert known(journal, 4) not in journal.unacknowledged()
        journal.lease(known(journal, 4), other, 2)
    with opened(tmp_path) as journal:
        assert known(journal, 4) in journal.unacknowledged()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(JournalBusy):
        ExecutedJobs(tmp_path, NOW)
    with opened(tmp_path):
        pass


def test_memory_is_bounded_and_a_full_one_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executed, "MOST_JOBS", 3)
    with opened(tmp_path) as journal:
        for number in range(1, 4):
            found = journal.start(job(number), lease=LEASE, attempt=1, now_ms=NOW)
            journal.finish(found, OUTCOME)
        with pytest.raises(MemoryFull):
            journal.start(job(4), lease=LEASE, attempt=1, now_ms=NOW)
        journal.start(job(5, expires_at=NOW + 2 * DAY), lease=LEASE, attempt=1, now_ms=NOW + DAY + 60_001)
        assert [found.id.int for found in journal.unfinished()] == [5]


def test_a_full_disk_leaves_the_journal_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) > 50:
            return write(descriptor, data[:50])
        raise OSError(errno.ENOSPC, "no space left on device")

    with opened(tmp_path) as journal:
        journal.start(job(1), lease=LEASE, attempt=1, now_ms=NOW)
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", lambda descriptor, data: half(descriptor, bytes(data)[:51]))
            with pytest.raises(OSError, match="no space"):
                journal.start(job(2), lease=LEASE, attempt=1, now_ms=NOW)
        assert journal.find(uuid.UUID(int=2)) is None
        journal.start(job(3), lease=LEASE, attempt=1, now_ms=NOW)
    with opened(tmp_path) as journal:
        assert [found.id.int for found in journal.unfinished()] == [1, 3]
        assert not journal.damaged
