"""`trustsoc rules ...`: tools for those who write and keep rules, without a cluster."""

from __future__ import annotations

import sys
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.text import Text

from cluster import render
from cluster.command_error import EXIT_FAILED, UsageError
from cluster.terminal_text import text, visible

if TYPE_CHECKING:
    from detect.sigma.lint import Finding
    from detect.sigma.pack_test_run import PackTestOutcome, PackTestReport
    from hunt.rule_files import RuleFiles

rules_app = typer.Typer(
    no_args_is_help=True,
    help="Sigma rules: tools that need no cluster, and packs, choices and backtests of a running one.",
)

Paths = Annotated[
    list[str] | None,
    typer.Argument(metavar="PATH...", help="Files, folders or archives of rules.", show_default="starter pack"),
]
_WEIGHT_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


class ReportFormat(StrEnum):
    """For whom a report is."""

    text = "text"
    json = "json"


Format = Annotated[ReportFormat, typer.Option("--format", help="For people or for programs.")]


@rules_app.command("lint")
def rules_lint(
    paths: Paths = None,
    report_format: Format = ReportFormat.text,
    leave_out: Annotated[list[str] | None, typer.Option("--ignore", help="A check to leave out.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail as well.")] = False,
) -> None:
    """Says what is wrong, doubtful or slow in rules, with file, line and reason. Exit 1 when there are errors."""
    from detect.normalize import default_definitions
    from detect.sigma import load_rule_set
    from detect.sigma.lint import CHECKS, Finding, lint

    if unknown := set(leave_out or ()) - CHECKS.keys():
        raise UsageError(f"there is no check {', '.join(sorted(unknown))}: known are {', '.join(CHECKS)}")
    files = _read(paths)
    loaded = load_rule_set(files.sources)
    findings = [Finding(problem.path, 1, "", "not-loaded", "error", problem.reason) for problem in files.problems]
    findings.extend(lint(files.sources, loaded, default_definitions(), leave_out or ()))
    if report_format is ReportFormat.json:
        render.print_json({"findings": [_finding_json(finding) for finding in findings]})
    else:
        _show_findings(findings, len(loaded.rules) + len(loaded.correlations), len(files.sources))
    if any(finding.weight == "error" or (strict and finding.weight == "warning") for finding in findings):
        raise typer.Exit(EXIT_FAILED)


@rules_app.command("test")
def rules_test(
    paths: Paths = None,
    report_format: Format = ReportFormat.text,
    require_tests: Annotated[bool, typer.Option("--require-tests", help="A rule without a test fails.")] = False,
) -> None:
    """Runs the tests inside rule packs through the production normaliser and matcher. Exit 1 when one fails."""
    from detect.normalize import default_normalizer
    from detect.sigma import load_rule_set
    from detect.sigma.pack_test_run import run_pack_tests

    files = _read(paths)
    loaded = load_rule_set(files.sources)
    report = run_pack_tests(loaded, files.sources, files.tests, default_normalizer())
    broken = [*map(str, files.problems), *map(str, loaded.errors)]
    if report_format is ReportFormat.json:
        render.print_json(_report_json(report, broken))
    else:
        _show_report(report, broken)
    if report.failed or broken or (require_tests and report.untested):
        raise typer.Exit(EXIT_FAILED)


@rules_app.command("navigator")
def rules_navigator(
    paths: Paths = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the layer there.", dir_okay=False)
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What the layer is called.")] = "Sigma rules",
) -> None:
    """ATT&CK coverage as a layer of MITRE's ATT&CK Navigator: how many rules look for each technique."""
    from detect.sigma import load_rule_set
    from detect.sigma.navigator import navigator_layer

    layer = navigator_layer(load_rule_set(_read(paths).sources), name)
    if output is None:
        render.print_json(layer)
        return
    try:
        output.write_bytes(orjson.dumps(layer, option=orjson.OPT_INDENT_2) + b"\n")
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror or error}") from error
    render.terminal(sys.stderr).print(text(f"{len(layer['techniques'])} techniques in {output}"))


@rules_app.command("coverage")
def rules_coverage(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Logs, as for trustsoc hunt.")],
    rules: Annotated[
        list[str] | None,
        typer.Option("--rules", "-r", help="File, folder or archive of rules.", show_default="starter pack"),
    ] = None,
    report_format: Format = ReportFormat.text,
    show_all: Annotated[bool, typer.Option("--all", help="Also the rules that can fire.")] = False,
) -> None:
    """Says of each rule whether its log source and its fields ever arrived in these files: what could never fire."""
    from cluster.hunt_arrivals import arrivals_in
    from cluster.render_hunt import show_coverage
    from detect.sigma import load_rule_set
    from detect.sigma.coverage import coverage_of

    console = render.terminal(sys.stderr)
    loaded = load_rule_set(_read(rules).sources)
    report = coverage_of(loaded, arrivals_in(files, console))
    if report_format is ReportFormat.json:
        render.print_json(report.as_json())
    else:
        show_coverage(render.terminal(), report, show_all=show_all)


@rules_app.command("digest")
def rules_digest(
    path: Annotated[str, typer.Argument(metavar="PATH", help="File, folder or archive of rules.")],
) -> None:
    """The SHA-256 of what a path holds, however it is packed: what `trustsoc hunt --sha256` takes."""
    from hunt.rule_files import UnusableRules, rule_digest

    try:
        digest = rule_digest(path)
    except UnusableRules as error:
        raise UsageError(str(error)) from error
    sys.stdout.write(f"{digest}  {path}\n")


def _read(paths: list[str] | None) -> RuleFiles:
    from hunt.rule_files import UnusableRules, read_rule_files

    try:
        files = read_rule_files(paths or [])
    except UnusableRules as error:
        raise UsageError(str(error)) from error
    if not files.sources and not files.tests and not files.problems:
        raise UsageError(f"no rule files in {', '.join(paths or ())}: they end in .yml or .yaml")
    return files


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "path": finding.path, "line": finding.line, "rule_id": finding.rule_id, "check": finding.check,
        "weight": finding.weight, "text": finding.text,
    }  # fmt: skip


def _show_findings(findings: list[Finding], rules: int, files: int) -> None:
    console = render.terminal()
    for finding in findings:
        line = Text.assemble(
            (f"{visible(finding.path)}:{finding.line}: ", "bold"),
            (f"{finding.weight}: ", _WEIGHT_STYLES[finding.weight]),
            visible(finding.text),
            (f"  [{finding.check}]", "dim"),
        )
        console.print(line, soft_wrap=True)
    weights = Counter(finding.weight for finding in findings)
    counts = ", ".join(f"{weights[weight]:,} {weight}s" for weight in ("error", "warning", "note"))
    console.print(text(f"{rules:,} rules in {files:,} files: {counts}"))


def _report_json(report: PackTestReport, broken: list[str]) -> dict[str, Any]:
    return {
        "tests": [
            {
                "path": outcome.path, "line": outcome.line, "rule": outcome.rule, "title": outcome.title,
                "name": outcome.name, "passed": outcome.passed, "expect": outcome.expect, "got": outcome.got,
                "fault": outcome.fault,
            }
            for outcome in report.outcomes
        ],
        "failed": report.failed,
        "untested": [rule.id for rule in report.untested],
        "not_loaded": broken,
    }  # fmt: skip


def _show_report(report: PackTestReport, broken: list[str]) -> None:
    console = render.terminal()
    for line in broken:
        console.print(Text.assemble(("not loaded: ", "bold red"), visible(line)), soft_wrap=True)
    for outcome in report.outcomes:
        if not outcome.passed:
            console.print(_failure(outcome), soft_wrap=True)
    rules = len({outcome.rule for outcome in report.outcomes})
    passed = len(report.outcomes) - report.failed
    console.print(text(f"{passed:,} tests of {rules:,} rules passed, {report.failed:,} failed"))
    if report.untested:
        console.print(text(f"{len(report.untested):,} rules have no test", "dim"))


def _failure(outcome: PackTestOutcome) -> Text:
    wanted = {"match": "a match", "none": "no match"}.get(str(outcome.expect), f"{outcome.expect}")
    said = outcome.fault or f"expected {wanted}, got {outcome.got}"
    return Text.assemble(
        ("failed: ", "bold red"), (f"{visible(outcome.path)}:{outcome.line}: ", "bold"),
        f"{visible(outcome.title or outcome.rule)}: {visible(outcome.name)}: {visible(said)}",
    )  # fmt: skip
