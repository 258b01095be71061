"""Real password guessing against a real host: each attacker is one story, and nobody else is drawn into it."""

from __future__ import annotations

import gzip
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("TRUSTSOC_TEST_DATA", ROOT.parent / "shared" / "data"))
LOG = DATA / "loghub" / "OpenSSH.jsonl.gz"
STAMP = re.compile(r"(\w{3} +\d+ \d\d:\d\d:\d\d) ")
FAILURE = re.compile(r"\]: Failed password for .* from (\S+) port ")


@pytest.mark.data
@pytest.mark.skipif(not LOG.is_file(), reason=f"the evaluation data is not at {DATA}: set TRUSTSOC_TEST_DATA")
def test_each_guessing_address_of_a_real_ssh_log_has_incidents_of_its_own(bench: Any, journal: Any, run: Any) -> None:
    base = datetime(2023, 11, 14, 22, tzinfo=UTC).timestamp()
    rows: list[tuple[float, str]] = []
    with gzip.open(LOG, "rt", encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)["line"]
            stamp = STAMP.match(text)
            assert stamp is not None
            moment = datetime.strptime(f"2023 {stamp[1]} +0000", "%Y %b %d %H:%M:%S %z").timestamp()
            rows.append((moment - base, text))
    journal.control(type="rules", digest=bench.full)
    for start in range(0, len(rows), 250):
        journal.lines(rows[start : start + 250])
    incidents = {change.id: change for output in run(bench.detector(), journal) for change in output.incidents}
    failing = {found[1] for _, text in rows if (found := FAILURE.search(text))}
    guessers = {address for address in failing if _guesses(rows, address)}
    sources = [
        {entity.value for entity in incident.entities if entity.kind == "ip" and entity.role == "source"}
        for incident in incidents.values()
    ]
    assert all(len(found) == 1 for found in sources)
    assert set.union(*sources) == guessers


def _guesses(rows: list[tuple[float, str]], address: str) -> bool:
    """Whether five failures of the address lie within five minutes."""
    times = [second for second, text in rows if (found := FAILURE.search(text)) and found[1] == address]
    return any(later - earlier < 300 for earlier, later in zip(times, times[4:], strict=False))
