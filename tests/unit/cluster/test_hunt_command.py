"""`trustsoc hunt` on the command line: what it prints where, its exit codes, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli import COMMANDS, app
from tests.unit.hunt.files import ALL_RULES, NOTEPAD, WHOAMI, json_lines, refusals

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def case(tmp_path: Path) -> tuple[str, str]:
    """A folder of rules and one of logs."""
    rules, logs = tmp_path / "rules", tmp_path / "logs"
    rules.mkdir()
    logs.mkdir()
    for name, text in ALL_RULES:
        (rules / name).write_text(text)
    (logs / "events.jsonl").write_bytes(json_lines(NOTEPAD, WHOAMI))
    (logs / "auth.log").write_text("\n".join(refusals(5)))
    return str(rules), str(logs)


def hunt(*arguments: str, **options: Any) -> Any:
    return CliRunner().invoke(app, ["hunt", *arguments], **options)


def test_findings_go_to_standard_output_and_sums_to_standard_error(case: tuple[str, str]) -> None:
    rules, logs = case
    result = hunt("--rules", rules, logs)
    assert result.exit_code == 0, result.stderr
    assert [json.loads(line)["rule"]["title"] for line in result.stdout.splitlines()] == [
        "Whoami Run",
        "Password Guessing",
    ]
    assert "= 7 with records + 0 blank" in result.stderr
    assert "= 7 judged + 0 outside the time" in result.stderr
    assert "1 high, 1 medium" in result.stderr
    assert hunt("-q", "--rules", rules, logs).stderr == ""


def test_a_second_run_reads_the_compiled_rules(case: tuple[str, str], tmp_path: Path) -> None:
    rules, logs = case
    first = hunt("--rules", rules, logs)
    [kept] = (tmp_path / "cache" / "trustsoc" / "rules").iterdir()
    assert hunt("--rules", rules, logs).stdout == first.stdout
    kept.write_bytes(b"damaged")
    damaged = hunt("--rules", rules, logs)
    assert damaged.stdout == first.stdout and "compiled rules unusable" in damaged.stderr


def test_other_forms_of_output(case: tuple[str, str], tmp_path: Path) -> None:
    rules, logs = case
    csv = hunt("--rules", rules, "--output-format", "csv", logs).stdout.splitlines()
    assert len(csv) == 3 and csv[0].startswith("time,level,title")
    table = hunt("--rules", rules, "-f", "table", logs).stdout
    assert "2026-11-22 08:00:00Z  medium  Whoami Run" in table and "Image=C:\\Windows\\System32\\whoami.exe" in table
    output = tmp_path / "found.jsonl"
    assert hunt("--rules", rules, "-o", str(output), logs).stdout == ""
    assert len(output.read_text().splitlines()) == 2
    assert hunt("--rules", rules, "-o", str(tmp_path / "absent" / "x"), logs).exit_code == 2


def test_statistics_name_rules_and_log_sources(case: tuple[str, str]) -> None:
    rules, logs = case
    shown = hunt("--rules", rules, "--stats", logs).stderr
    assert (
        "mean cost alone" in shown and "Password Guessing" in shown and "sshd" in shown and "process_creation" in shown
    )
    assert "3 rules: can fire" in shown


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], 0),
        (["--fail-on", "critical"], 0),
        (["--fail-on", "high"], 1),
        (["--fail-on", "low"], 1),
        (["--level", "critical"], 2),
        (["--tag", "attack.t1033", "--fail-on", "high"], 0),
        (["--since", "2026-11-23"], 0),
        (["--until", "yesterday"], 2),
        (["--sha256", "00"], 2),
        (["--since", "999999d"], 2),
        (["--until", "0001-01-01T00:00:00+14:00"], 2),
        (["--since", "0001-01-01", "--until", "9999-12-31"], 0),
    ],
)
def test_exit_codes_say_what_was_found_and_what_was_wrong(case: tuple[str, str], options: list[str], code: int) -> None:
    rules, logs = case
    assert hunt("--rules", rules, *options, logs).exit_code == code


def test_a_file_or_rule_that_cannot_be_read_is_named_and_the_rest_goes_on(case: tuple[str, str]) -> None:
    rules, logs = case
    (Path(rules) / "broken.yml").write_text("title: [")
    result = hunt("--rules", rules, logs, f"{logs}/absent")
    assert result.exit_code == 1 and len(result.stdout.splitlines()) == 2
    assert f"rule not loaded: {rules}/broken.yml:" in result.stderr
    assert f"error: {logs}/absent: does not exist" in result.stderr


@pytest.mark.parametrize("form", ["jsonl", "csv", "table"])
@pytest.mark.parametrize("to_file", [True, False], ids=["file", "standard output"])
def test_a_full_disk_is_told_without_a_traceback(case: tuple[str, str], form: str, to_file: bool) -> None:
    command = [sys.executable, "-m", "cluster.cli", "hunt", "-q", "-f", form, "--rules", *case]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*command, *(["-o", "/dev/full"] if to_file else [])], stdout=None if to_file else full,
            stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
    assert done.returncode == 1
    name = "/dev/full" if to_file else "the findings"
    assert done.stderr == f"error: cannot write {name}: No space left on device\n"


@pytest.mark.parametrize("content", [json_lines(NOTEPAD, WHOAMI), json.dumps([NOTEPAD, WHOAMI], indent=1).encode()])
def test_standard_input_is_a_file_like_any_other(case: tuple[str, str], content: bytes) -> None:
    result = hunt("--rules", case[0], "--jobs", "1", "-", input=content)
    [line] = result.stdout.splitlines()
    assert (json.loads(line)["file"], json.loads(line)["line"]) == ("-", 2)


def test_a_reader_that_goes_away_ends_it_without_a_traceback(case: tuple[str, str], tmp_path: Path) -> None:
    many = tmp_path / "many.jsonl"
    many.write_bytes(json_lines(WHOAMI) * 2000)
    command = [sys.executable, "-m", "cluster.cli", "hunt", "--jobs", "1", "--rules", case[0], str(many)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_stream_is_judged_as_it_comes_and_ctrl_c_ends_it_with_all_workers(case: tuple[str, str], jobs: str) -> None:
    command = [sys.executable, "-m", "cluster.cli", "hunt", "--jobs", jobs, "--rules", case[0], "-"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(json_lines(WHOAMI))
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["rule"]["title"] == "Whoami Run"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == b""  # which ends when the last worker has closed it


def test_hunting_needs_no_cluster_no_database_and_no_parser_of_rules_once_they_are_compiled(
    case: tuple[str, str],
) -> None:
    assert hunt("--rules", case[0], case[1]).exit_code == 0
    code = (
        "import sys; from cluster.cli import app\n"
        f"app(['hunt', '-q', '--rules', {case[0]!r}, {case[1]!r}], standalone_mode=False)\n"
        "loaded = {'ray', 'asyncpg', 'fastapi', 'httpx', 'sigma', 'pyparsing', 'psutil'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_every_command_can_be_loaded_and_the_help_names_them_all() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert all(f" {name} " in shown.stdout for name in COMMANDS)
    assert CliRunner().invoke(app, ["nonsense"]).exit_code == 2
