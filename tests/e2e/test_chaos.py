"""200 kills of every part at seeded moments under load, and of everything at once: nothing missing, doubled, different.

`python -m bench.chaos` is the same with more kills. A failure prints the seed's story; the same seed strikes the same
roles in the same order, as far as they are alive.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.chaos.run import Outcome, run
from bench.chaos.schedule import Schedule
from bench.chaos.victims import ROLES

KILLS = 200
GROUP_KILLS = 2
STORY = 60


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    # Not pytest's own folder: root's PostgreSQL runs as another user and must be able to pass through.
    folder = Path(tempfile.mkdtemp(prefix="trustsoc-chaos-"))
    folder.chmod(0o711)
    told: list[str] = []
    schedule = Schedule(seed=20261122, kills=KILLS, group_kills=GROUP_KILLS, longest_pause_s=1.0, at_once=4)
    try:
        yield run(folder, schedule, STORY, told.append)
    except BaseException:
        print("\n".join(told), (folder / "up.log").read_text(errors="replace")[-3000:], sep="\n")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(900)
def test_every_part_was_killed_and_everything_at_once(outcome: Outcome) -> None:
    assert sum(outcome.struck.kills.values()) >= KILLS
    assert set(outcome.struck.kills) == set(ROLES)
    assert outcome.struck.group_kills == GROUP_KILLS


def test_no_answer_would_have_made_a_collector_drop_data(outcome: Outcome) -> None:
    assert [text for books in outcome.books.values() for text in books.broken_promises] == []


@pytest.mark.parametrize("tenant", ["calm", "restless", "crowd", "tail"])
def test_what_is_stored_is_what_an_undisturbed_run_over_the_journal_gives(outcome: Outcome, tenant: str) -> None:
    assert outcome.verdicts[tenant].differences == []
    assert outcome.verdicts[tenant].batches > 0


def test_every_acknowledged_batch_is_stored_once(outcome: Outcome) -> None:
    for name in ("restless", "crowd"):
        seqs = [batch.seq for batch in outcome.books[name].acknowledged]
        assert len(seqs) == len(set(seqs))
    assert len(outcome.books["restless"].acknowledged) == STORY


def test_the_tenant_under_fire_has_the_events_of_the_one_in_peace(outcome: Outcome) -> None:
    assert outcome.verdicts["calm"].events > 0
    assert outcome.other_story == []


def test_no_line_of_the_tailed_file_is_missing(outcome: Outcome) -> None:
    assert outcome.written_lines > 0
    assert outcome.missing_lines == []
