"""Real password guessing against a real host: each attacker is one story, and nobody else is drawn into it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.evaluation_data import json_lines

STAMP = re.compile(r"(\w{3} +\d+ \d\d:\d\d:\d\d) ")
FAILURE = re.compile(r"\]: Failed password for .* from (\S+) port ")


@pytest.mark.data
def test_each_guessing_address_of_a_real_ssh_log_has_incidents_of_its_own(bench: Any, journal: Any, run: Any) -> None:
    base = datetime(2023, 11, 14, 22, tzinfo=UTC).timestamp()
    rows: list[tuple[float, str]] = []
    for row in json_lines("loghub/OpenSSH.jsonl.gz"):
        text = row["line"]
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
