"""up and down as commands: what can go wrong before anything runs is one line."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.cli_running import base_url_of, settings_of, show_ready
from cluster.command_error import UsageError
from cluster.data_directory import DataDirectory
from cluster.detached import Ready
from cluster.render import terminal


@pytest.mark.parametrize("detach", [(), ("--detach",)], ids=["foreground", "detached"])
def test_a_taken_port_is_found_before_anything_starts(
    run: Any, directory: DataDirectory, taken_port: int, detach: tuple[str, ...]
) -> None:
    outcome = run("up", "--port", str(taken_port), "--llm", "none", *detach)
    assert outcome.code == 1
    assert f"cannot listen on 127.0.0.1:{taken_port} (Address already in use): choose --port" in outcome.err
    assert directory.runtime() is None
    with directory.lock():
        pass


def test_down_where_nothing_runs(run: Any) -> None:
    outcome = run("down")
    assert (outcome.code, "was not running" in outcome.out) == (0, True)


@pytest.mark.parametrize(
    ("llm", "variable", "expected"),
    [("quantum", None, "TRUSTSOC_LLM"), (None, ("TRUSTSOC_HTTP_PORT", "abc"), "TRUSTSOC_HTTP_PORT")],
)
def test_a_wrong_setting_is_named(
    directory: DataDirectory,
    monkeypatch: pytest.MonkeyPatch,
    llm: str | None,
    variable: tuple[str, str] | None,
    expected: str,
) -> None:
    if variable:
        monkeypatch.setenv(*variable)
    with pytest.raises(UsageError, match=expected):
        settings_of(directory, None, llm)


def test_options_go_before_the_environment(directory: DataDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTSOC_HTTP_PORT", "5000")
    assert base_url_of(settings_of(directory, None, "none")) == "http://127.0.0.1:5000"
    assert base_url_of(settings_of(directory, 5001, "none")) == "http://127.0.0.1:5001"
    monkeypatch.setenv("TRUSTSOC_HTTP_HOST", "0.0.0.0")  # noqa: S104 - nothing listens
    assert base_url_of(settings_of(directory, 5001, "none")) == "http://127.0.0.1:5001"


def test_the_first_key_is_shown_at_the_first_start_only(
    directory: DataDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    show_ready(terminal(), Ready("http://127.0.0.1:4318", "first-secret"), directory, foreground=True)
    assert "first-secret" in capsys.readouterr().out
    show_ready(terminal(), Ready("http://127.0.0.1:4318"), directory, foreground=False)
    shown = capsys.readouterr().out
    assert "administrator" not in shown
    assert "`trustsoc down`" in shown
