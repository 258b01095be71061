"""`trustsoc rules ...` on the command line: reports for people and programs, and exit codes for pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from hunt.team import WorkerFailed
from tests.unit.hunt.files import ALL_RULES, NOTEPAD, WHOAMI, json_lines


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    folder = tmp_path / "rules"
    folder.mkdir()
    for name, text in ALL_RULES:
        (folder / name).write_text(text)
    return folder


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["rules", *arguments])


def test_lint_names_findings_and_fails_on_errors(rules: Path) -> None:
    sound = run("lint", str(rules), "--ignore", "missing-author", "--ignore", "missing-description")
    assert sound.exit_code == 0, sound.stdout
    assert "3 rules in 3 files: 0 errors, 0 warnings, 0 notes" in sound.stdout
    (rules / "refused.yml").write_text(ALL_RULES[1][1].replace("condition: keywords", "condition: keyword"))
    broken = run("lint", str(rules))
    assert broken.exit_code == 1 and f"{rules}/refused.yml:" in broken.stdout and "[not-loaded]" in broken.stdout
    report = json.loads(run("lint", str(rules), "--format", "json").stdout)
    assert {finding["weight"] for finding in report["findings"]} >= {"error", "note"}
    assert run("lint", "--ignore", "nonsense").exit_code == 2
    assert run("lint", str(rules / "absent")).exit_code == 2


def test_a_file_whose_name_is_no_utf8_is_reported(rules: Path) -> None:
    (rules / "caf\udce9.yml").write_text("title: no rule\n")
    report = json.loads(run("lint", str(rules), "--format", "json").stdout)
    assert any(finding["path"].endswith("caf\\udce9.yml") for finding in report["findings"])


def test_warnings_fail_only_when_strict(rules: Path) -> None:
    (rules / "whoami.yml").write_text(ALL_RULES[0][1].replace("level: medium\n", ""))
    assert run("lint", str(rules)).exit_code == 0
    assert run("lint", str(rules), "--strict").exit_code == 1


def test_the_tests_of_a_pack_pass_or_fail_it(rules: Path) -> None:
    passed = run("test", str(rules))
    assert passed.exit_code == 0 and "1 tests of 1 rules passed, 0 failed" in passed.stdout
    assert "2 rules have no test" in passed.stdout
    assert run("test", str(rules), "--require-tests").exit_code == 1
    (rules / "refused.test.yml").write_text("rule: password_refused\ntests: {positive: [nothing of the kind]}\n")
    failed = run("test", str(rules))
    assert failed.exit_code == 1
    assert f"failed: {rules}/refused.test.yml:2: Password Refused: positive 1: expected a match, got 0" in failed.stdout
    report = json.loads(run("test", str(rules), "--format", "json").stdout)
    assert report["failed"] == 1 and [test["passed"] for test in report["tests"]] == [True, False]


def test_the_starter_pack_is_meant_where_no_path_is_given() -> None:
    assert run("test").exit_code == 0
    assert json.loads(run("navigator").stdout)["versions"]["layer"] == "4.5"


def test_a_layer_goes_to_a_file(rules: Path, tmp_path: Path) -> None:
    output = tmp_path / "layer.json"
    result = run("navigator", str(rules), "-o", str(output), "--name", "Mine")
    layer = json.loads(output.read_text())
    assert result.exit_code == 0 and layer["name"] == "Mine"
    assert [technique["techniqueID"] for technique in layer["techniques"]] == ["T1033", "T1110", "T1110.001"]


def test_coverage_says_what_could_never_fire(rules: Path, tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    log.write_bytes(json_lines(NOTEPAD, WHOAMI))
    report = json.loads(run("coverage", "--rules", str(rules), str(log), "--format", "json").stdout)
    verdicts = {rule["title"]: rule["verdict"] for rule in report["rules"]}
    assert verdicts == {
        "Whoami Run": "can fire",
        "Password Refused": "no log source",
        "Password Guessing": "no log source",
    }
    shown = run("coverage", "--rules", str(rules), str(log)).stdout
    assert "Password Refused" in shown and "Whoami Run" not in shown


def test_coverage_of_nothing_is_an_error_and_so_is_the_end_of_a_worker(
    rules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = run("coverage", "--rules", str(rules), str(tmp_path / "absent"))
    assert absent.exit_code == 1 and absent.stdout == "" and "absent: does not exist" in absent.stderr

    def killed(*_: object) -> None:
        raise WorkerFailed("a worker ended")

    monkeypatch.setattr("hunt.run.Hunt.run", killed)
    assert run("coverage", "--rules", str(rules), str(rules)).exit_code == 1


def test_a_digest_pins_what_a_path_holds(rules: Path, tmp_path: Path) -> None:
    digest = run("digest", str(rules)).stdout.split()[0]
    log = tmp_path / "events.jsonl"
    log.write_bytes(json_lines(WHOAMI))
    arguments = ["hunt", "-q", "--rules", str(rules), "--sha256", digest, str(log)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    (rules / "whoami.yml").write_text("# changed\n" + ALL_RULES[0][1])
    assert CliRunner().invoke(app, arguments).exit_code == 2
