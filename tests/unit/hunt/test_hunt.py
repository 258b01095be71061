"""A whole hunt: which rules are told, which records are judged, what the lines say, and many workers as one."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest

from detect.sigma import load_rule_set
from hunt.found import CsvWriter, Found
from hunt.inputs import InputFile, find_files
from hunt.processes import can_copy
from hunt.rule_book import RuleChoice
from hunt.rule_cache import load_rules
from hunt.run import Hunt, HuntOptions
from hunt.team import WorkerFailed
from tests.unit.hunt.files import ALL_RULES, GUESSING_RULE, NOTEPAD, NOW_NS, WHOAMI, hunted, json_lines, refusals

ROOT = Path(__file__).parents[3]


def titles(found: list[dict[str, Any]]) -> list[str]:
    return [item["rule"]["title"] for item in found]


@pytest.fixture
def logs(tmp_path: Path) -> list[Path]:
    """Refusals whose second half is in the file that comes first, and a Windows event."""
    lines = refusals(6)
    first, second, third = tmp_path / "a.log", tmp_path / "b.log", tmp_path / "c.jsonl"
    first.write_text("\n".join(lines[3:]) + "\n")
    second.write_text("\n".join(lines[:3]) + "\n")
    third.write_bytes(json_lines(NOTEPAD, WHOAMI))
    return [first, second, third]


def test_a_line_says_what_is_promised(logs: list[Path]) -> None:
    found, books = hunted(logs)
    assert list(found[-2]) == ["kind", "rule", "time", "file", "line", "matched", "record", "attributes"]
    assert found[-2] == {
        "kind": "rule",
        "rule": {
            "id": "7b0e6a5c-0b0f-4f6e-9a35-0e5f5d1c6a01",
            "title": "Whoami Run",
            "level": "medium",
            "status": "test",
            "tags": ["attack.discovery", "attack.t1033", "detection.emerging-threats"],
            "author": "A Person",
            "license": "Apache-2.0",
            "path": "whoami.yml",
        },
        "time": "2026-11-22T08:00:00Z",
        "file": str(logs[2]),
        "line": 2,
        "matched": {"Image": "C:\\Windows\\System32\\whoami.exe"},
        "record": WHOAMI,
        "attributes": {"log.file.name": "c.jsonl", "log.file.path": str(logs[2])},
    }
    assert books.found == {"medium": 1, "high": 1}


def test_correlations_follow_event_time_across_files(logs: list[Path]) -> None:
    """The source rule is silent: it feeds a correlation that does not ask for its own events."""
    found, _ = hunted(logs)
    assert titles(found) == ["Whoami Run", "Password Guessing"]
    guessing = found[-1]
    assert (guessing["kind"], guessing["file"], guessing["line"]) == ("correlation", str(logs[0]), 2)
    assert guessing["matched"]["count"] == 5 and guessing["matched"]["group"] == {"src_ip": "203.0.113.9"}
    assert (guessing["time"], guessing["end"]) == ("2026-11-22T08:10:00Z", "2026-11-22T08:10:04Z")
    places = [(Path(entry["file"]).name, entry["line"]) for entry in guessing["records"]]
    assert places == [("b.log", 1), ("b.log", 2), ("b.log", 3), ("a.log", 1), ("a.log", 2)]


def test_without_correlations_nothing_feeds_them(logs: list[Path]) -> None:
    found, _ = hunted(logs, HuntOptions(correlate=False))
    assert titles(found) == ["Whoami Run"]


def test_several_records_on_one_line_count_as_several(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    path.write_text(json.dumps({"Records": [{"message": line} for line in refusals(5)]}))
    assert titles(hunted([path])[0]) == ["Password Guessing"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (RuleChoice(), {"Whoami Run", "Password Guessing"}),
        (RuleChoice(level="high"), {"Password Guessing"}),
        (RuleChoice(level="critical"), set()),
        (RuleChoice(tags=("attack.t1033",)), {"Whoami Run"}),
        (RuleChoice(tags=("ATTACK.T1110*", "nothing")), {"Password Guessing"}),
        (RuleChoice(statuses=("stable",)), {"Password Guessing"}),
        (RuleChoice(include=("whoami_run",)), {"Whoami Run"}),
        (RuleChoice(include=("7b0e6a5c-*",), exclude=("*03",)), {"Whoami Run"}),
        (RuleChoice(exclude=("WHOAMI_*",)), {"Password Guessing"}),
    ],
)
def test_rules_are_chosen_and_what_a_chosen_correlation_needs_is_judged(
    logs: list[Path], choice: RuleChoice, expected: set[str]
) -> None:
    found, _ = hunted(logs, HuntOptions(choice=choice))
    assert set(titles(found)) == expected


def test_a_rule_that_feeds_a_correlation_speaks_when_that_asks_it_to(logs: list[Path]) -> None:
    generating = GUESSING_RULE.replace("  type:", "  generate: true\n  type:")
    found, _ = hunted(logs, rules=[*ALL_RULES[:2], ("guessing.yml", generating)])
    assert titles(found).count("Password Refused") == 6


def test_records_outside_the_time_asked_for_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    times = ("2026-11-22T07:59:59Z", "2026-11-22T08:00:00Z", "2026-11-22T08:00:01Z", None)
    path.write_bytes(json_lines(*({**WHOAMI, "@timestamp": time} for time in times)))
    eight = 1_795_334_400 * 10**9
    found, books = hunted([path], HuntOptions(since_ns=eight, until_ns=eight + 10**9))
    assert [item["line"] for item in found] == [2, 4]
    assert found[1]["time"] is None
    assert (books.records, books.judged, books.outside) == (4, 2, 2)


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_year_one_is_no_time(tmp_path: Path, jobs: int) -> None:
    """So programs in Go and .NET write that they know none; no 64 bits hold its nanoseconds."""
    path = tmp_path / "log.jsonl"
    line = {"@timestamp": "0001-01-01T00:00:00Z", "message": refusals(1, "203.0.113.9")[0][16:]}
    path.write_bytes(json_lines(*([line] * 5), {**WHOAMI, "@timestamp": line["@timestamp"]}, {"x": "y" * 20_000_000}))
    found, books = hunted([path], HuntOptions(jobs=jobs))
    assert titles(found)[0] == "Whoami Run" and found[0]["time"] is None and books.failed == 0


UNANSWERED_RULE = """
title: Refused And Never Let In
id: 7b0e6a5c-0b0f-4f6e-9a35-0e5f5d1c6a04
correlation:
  type: temporal_ordered
  rules: [password_refused, whoami_run]
  timespan: 5m
  condition: password_refused and not whoami_run
"""


def at(minute: int) -> dict[str, Any]:
    """Somebody was let in, some minutes past eight."""
    return {**WHOAMI, "@timestamp": f"2026-11-22T08:{minute:02d}:00Z"}


def test_absence_is_not_told_by_the_time_of_records_that_were_not_judged(tmp_path: Path) -> None:
    """At 08:02 it is open whether the refusal at 08:00 is followed by anything in five minutes."""
    path = tmp_path / "log"
    rules = [*ALL_RULES[:2], ("unanswered.yml", UNANSWERED_RULE)]
    eight = 1_795_334_400 * 10**9
    path.write_text("\n".join((*refusals(1, minute=0), json.dumps(at(4)), json.dumps(at(20)))))
    found, books = hunted([path], HuntOptions(until_ns=eight + 120 * 10**9), rules)
    assert found == [] and (books.judged, books.outside) == (1, 2)
    found, _ = hunted([path], HuntOptions(until_ns=eight + 600 * 10**9), rules)
    assert found == []
    path.write_text("\n".join((*refusals(1, minute=0), json.dumps(at(20)))))
    found, _ = hunted([path], HuntOptions(until_ns=eight + 600 * 10**9), rules)
    assert titles(found) == ["Refused And Never Let In"]


def test_absence_is_told_as_far_as_the_time_of_a_damaged_file_goes(tmp_path: Path) -> None:
    path = tmp_path / "log.gz"
    later = [f"Nov 22 08:20:00 web-1 sshd[7]: Something {number * number}" for number in range(60_000)]
    packed = gzip.compress("\n".join((*refusals(1, minute=0), *later)).encode())
    path.write_bytes(packed[: len(packed) // 2])
    found, books = hunted([path], rules=[*ALL_RULES[:2], ("unanswered.yml", UNANSWERED_RULE)])
    assert titles(found) == ["Refused And Never Let In"] and books.files_failed == 1


def test_a_missing_file_is_an_error_and_the_rest_is_judged(logs: list[Path], tmp_path: Path) -> None:
    found, books = hunted([tmp_path / "absent", *logs])
    assert len(found) == 2 and books.files_failed == 1
    assert str(books.errors[0]) == f"{tmp_path / 'absent'}: does not exist"


def test_folders_are_searched_by_ending_or_glob_and_links_not_followed(tmp_path: Path) -> None:
    for name in ("a.json", "b.log", "sub/c.JSON.gz", "sub/.hidden.json", "sub/d.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path)

    def names(**options: Any) -> list[str]:
        found, errors = find_files([str(tmp_path)], **options)
        assert not errors
        return [Path(name).relative_to(tmp_path).as_posix() for name in found]

    assert names() == ["a.json", "b.log", "sub/c.JSON.gz", "sub/d.txt"]
    assert names(extensions=["json"]) == ["a.json", "sub/c.JSON.gz"]
    assert names(extensions=[".log"], globs=["sub/*.txt"]) == ["b.log", "sub/d.txt"]
    assert find_files([str(tmp_path)], ["evtx"])[1][0].reason == "no file below this folder is meant"


def test_a_cell_that_a_spreadsheet_would_run_is_text() -> None:
    stream = io.StringIO()
    rules = load_rule_set([(path, text.replace("Whoami Run", "=cmd()")) for path, text in ALL_RULES])
    tail = orjson.dumps({"matched": {"a": "b", "n": 1}, "record": {}, "attributes": {}})[1:]
    CsvWriter(stream).write(Found(rules.rules[-1], "rule", 0, "f", 3, '@x,"y"\nz', tail))
    heading, row, rest = stream.getvalue().split("\n", 2)
    assert heading.startswith("time,level,title,rule_id,kind,file,line,matched,message,tags,author")
    assert row.startswith("1970-01-01T00:00:00Z,medium,'=cmd(),") and ',a=b; n=1,"\'@x,""y""' in row and "z" in rest


def hunt_command(way: str, *arguments: str) -> list[str]:
    """The command in an interpreter of its own, whose workers can only be started in that way."""
    only = {
        "copies": "hunt.run.OwnInterpreter = None",
        "interpreters": "hunt.run.can_copy = lambda: False",
    }[way]
    code = f"import hunt.run; from cluster.cli import app\n{only}\napp({['hunt', *arguments]!r})"
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("way", ["copies", "interpreters"])
def test_two_workers_say_what_one_process_says(tmp_path: Path, way: str) -> None:
    """Through the real command, with files large enough that both have work."""
    rules, plain = tmp_path / "rules", tmp_path / "log.jsonl"
    rules.mkdir()
    for name, text in ALL_RULES:
        (rules / name).write_text(text)
    padding = {**NOTEPAD, "padding": "x" * 2000}
    block = json_lines(*([padding] * 1000), {**WHOAMI, "padding": "y"}) + b"oops\n"
    plain.write_bytes(block * 9)
    guesses = tmp_path / "auth.log"
    guesses.write_text("\n".join(refusals(8)) + "\n")

    def run(jobs: int) -> tuple[list[str], str]:
        arguments = ("--jobs", str(jobs), "--rules", str(rules), str(plain), str(guesses))
        done = subprocess.run(
            hunt_command(way, *arguments), capture_output=True, text=True, check=False, cwd=ROOT, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), done.stderr

    (alone, books), (together, other) = run(1), run(2)
    assert alone == together
    assert [json.loads(line)["line"] for line in alone[:3]] == [1001, 2003, 3005]
    assert len(alone) == 10 and json.loads(alone[-1])["rule"]["title"] == "Password Guessing"
    for text in (books, other):
        assert "9,026  = 9,017 with records + 0 blank + 9 skipped (not valid JSON)" in text
        assert f"{plain}:1002: not valid JSON" in text


def large(path: Path) -> Path:
    """A file that is worth two workers."""
    path.write_bytes(json_lines({"padding": "x" * 1000}) * 30_000)
    return path


def test_a_worker_that_cannot_start_is_an_error_and_not_a_silent_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hunt.run.can_copy", lambda: False)
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))  # no interpreter starts here
    with pytest.raises(WorkerFailed, match="a worker ended with status 1: "):
        hunted([large(tmp_path / "log.jsonl")], HuntOptions(jobs=2))


@pytest.mark.skipif(sys.platform != "linux", reason="a process is copied only there")
def test_a_worker_that_is_killed_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("hunt.run.can_copy", lambda: True)
    monkeypatch.setattr("hunt.worker.judge_unit", killed)
    path = large(tmp_path / "log.jsonl")
    with pytest.raises(WorkerFailed, match=f"a worker ended with status -9 at {path}: "):
        hunted([path], HuntOptions(jobs=2))


@pytest.mark.skipif(sys.platform != "linux", reason="a process is copied only there")
def test_a_defect_of_a_worker_names_the_file_and_the_place_in_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defective(*_: object) -> None:
        raise AssertionError("impossible")

    monkeypatch.setattr("hunt.run.can_copy", lambda: True)
    monkeypatch.setattr("hunt.worker.judge_unit", defective)
    path = large(tmp_path / "log.jsonl")
    with pytest.raises(WorkerFailed, match=rf"(?s)a worker failed at {path}:\n.*, in defective\n.*impossible"):
        hunted([path], HuntOptions(jobs=2))


def test_a_process_with_threads_is_not_copied() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        assert not can_copy()
    finally:
        over.set()
        thread.join()


def test_workers_end_with_the_hunt_however_it_ends(tmp_path: Path) -> None:
    """One that is killed itself cannot tell its workers; they notice that nobody is there any more."""
    (tmp_path / "rule.yml").write_text(ALL_RULES[0][1])
    arguments = ("--jobs", "3", "--rules", str(tmp_path / "rule.yml"), "-")
    pipe = subprocess.PIPE
    command = hunt_command("copies", *arguments)
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(json_lines(WHOAMI))
        process.stdin.flush()
        assert process.stdout.readline()
        process.kill()
        assert process.stderr.read() == b""  # which ends when the last worker has closed it


@pytest.mark.parametrize(
    ("copying", "rules", "size", "expected"),
    [
        (True, 3, 1, 1),
        (True, 3, 1 << 30, 8),
        (True, 3, 20 << 20, 3),
        (False, 3, 20 << 20, 2),
        (False, 3750, 64 << 20, 1),
        (False, 3750, 300 << 20, 3),
    ],
)
def test_more_rules_take_more_to_be_worth_a_worker_unless_it_is_a_copy(
    copying: bool, rules: int, size: int, expected: int
) -> None:
    file = InputFile(0, "log", b"log", size, NOW_NS, "jsonl", direct=True)
    loaded = load_rules(ALL_RULES, RuleChoice(), None, correlate=True)
    many = dataclasses.replace(loaded.everything, rules=loaded.everything.rules[:1] * rules)
    hunting = Hunt(HuntOptions(jobs=8), ALL_RULES, dataclasses.replace(loaded, everything=many), [file])
    assert hunting.worth_jobs(copying=copying) == expected
