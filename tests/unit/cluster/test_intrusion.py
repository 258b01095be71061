"""The scripted intrusion: always the same, in order, in the exact formats, and every line is known to its parser."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import unquote

import pytest

from cluster.intrusion import ATTACKER, FILES, HOST, VICTIM, intrusion
from detect.normalize import default_normalizer
from detect.normalize.timestamps import parse_timestamp
from detect.record import LogRecord, Logsource, NormalizedRecord, RecordRef

START = datetime(2026, 11, 2, 9, 14, 3, tzinfo=UTC)
START_NS = int(START.timestamp()) * 10**9
LINES = list(intrusion(START))
NORMALIZER = default_normalizer()

EXPECTED = {
    "auth.log": {"linux"},
    "syslog": {"linux"},
    "audit.log": {"linux"},
    "access.log": {""},
}


def view(file: str, line: str) -> NormalizedRecord:
    attributes = {"log.file.name": file}
    return NORMALIZER.normalize(LogRecord(RecordRef(1, 0), 1, 1, 1, 1, 0, "", line, attributes, {"host.name": HOST}))


VIEWS = [(file, line, view(file, line)) for _, file, line in LINES]


def test_the_same_arguments_give_the_same_lines_and_another_seed_others() -> None:
    assert list(intrusion(START)) == LINES
    assert list(intrusion(START, seed=8)) != LINES


@pytest.mark.parametrize("duration", [0.5, 12.0, 600.0])
def test_the_delays_add_up_to_about_the_duration(duration: float) -> None:
    delays = [delay for delay, _, _ in intrusion(START, duration_seconds=duration)]
    assert min(delays) >= 0
    assert 0.9 * duration <= sum(delays) <= 1.1 * duration


def test_every_line_states_the_time_at_which_it_is_written() -> None:
    offset = 0.0
    for delay, _, line in LINES:
        offset += delay
        stated = parse_timestamp(line, START_NS)
        assert stated is not None
        assert abs(stated - (START_NS + offset * 1e9)) < 1.01e9


def test_a_start_in_another_zone_gives_the_same_lines() -> None:
    assert list(intrusion(START.astimezone(timezone(timedelta(hours=5))))) == LINES


@pytest.mark.parametrize(
    ("start", "duration"),
    [(datetime(2026, 11, 2, 9), 12.0), (START, 0.0)],  # noqa: DTZ001 - the point of the test
)
def test_a_start_without_zone_and_an_empty_duration_are_refused(start: datetime, duration: float) -> None:
    with pytest.raises(ValueError, match=r"time zone|duration"):
        next(intrusion(start, duration_seconds=duration))


def test_every_line_is_known_to_the_parser_of_its_file() -> None:
    assert {file for file, _, _ in VIEWS} == set(FILES)
    for file, line, seen in VIEWS:
        record = seen.record
        assert NORMALIZER.recognise(record), line
        assert seen.logsource.product in EXPECTED[file], line
        assert (seen.logsource.category == "webserver") == (file == "access.log"), line
        assert ("auditd" in seen.logsource.service) == (file == "audit.log"), line


def test_the_story_is_told_by_its_views() -> None:
    attacker = [seen for _, _, seen in VIEWS if seen.entity("ip", "source") == ATTACKER]
    failures = [seen for seen in attacker if seen.logsource.service == "sshd" and seen.outcome == "failure"]
    assert len({seen.entity("user", "target") for seen in failures}) >= 5
    logins = [seen for seen in attacker if seen.logsource.service == "sshd" and seen.outcome == "success"]
    assert [seen.entity("user", "target") for seen in logins] == [VICTIM]
    commands = [
        str(seen.fields["CommandLine"]) for _, _, seen in VIEWS if seen.logsource.category == "process_creation"
    ]
    assert any(command.startswith("/usr/bin/wget -q http://") for command in commands)
    assert any(command.startswith("wget -q http://") for command in commands)
    assert "sh -c cat /etc/passwd" in commands
    assert any(seen.fields.get("action") == "REPLACE" and seen.logsource.service == "cron" for _, _, seen in VIEWS)
    created = [seen.fields["TargetFilename"] for _, _, seen in VIEWS if seen.logsource.category == "file_event"]
    assert "/etc/cron.d/cache-update" in created
    assert any(seen.activity == "account" and seen.fields.get("user") == "backup2" for _, _, seen in VIEWS)
    shells = [str(seen.fields["cs-uri"]) for seen in attacker if "cmd=" in str(seen.fields.get("cs-uri", ""))]
    assert [unquote(target.partition("=")[2]) for target in shells] == ["id", "uname -a", "cat /etc/passwd"]


def test_ordinary_lines_are_most_of_the_web_traffic_and_include_colleagues() -> None:
    web = [seen for file, _, seen in VIEWS if file == "access.log"]
    assert sum(seen.entity("ip", "source") != ATTACKER for seen in web) > len(web) * 0.8
    assert any(
        seen.logsource == Logsource("linux", "", "sshd") and seen.fields.get("method") == "publickey"
        for _, _, seen in VIEWS
    )
