"""A whole hunt: which rules are told, which records are judged, what the lines say, and many workers as one."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from detect.sigma import load_rule_set
from hunt.found import CsvWriter, Found
from hunt.inputs import find_files
from hunt.rule_book import RuleChoice
from hunt.run import HuntOptions
from tests.unit.hunt.files import ALL_RULES, GUESSING_RULE, NOTEPAD, WHOAMI, hunted, json_lines, refusals

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


def test_two_workers_say_what_one_process_says(tmp_path: Path) -> None:
    """Through the real command, with files large enough that both have work, one of them compressed."""
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
        command = [sys.executable, "-m", "cluster.cli", "hunt", "--jobs", str(jobs), "--rules", str(rules)]
        done = subprocess.run(
            [*command, str(plain), str(guesses)], capture_output=True, text=True, check=False, cwd=ROOT, timeout=120
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


def test_a_worker_that_dies_is_an_error_and_not_a_silent_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hunt.team import WorkerFailed

    path = tmp_path / "log.jsonl"
    path.write_bytes(json_lines({"padding": "x" * 1000}) * 20_000)
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))  # no interpreter starts here
    with pytest.raises(WorkerFailed, match="a worker ended with status"):
        hunted([path], HuntOptions(jobs=2))
