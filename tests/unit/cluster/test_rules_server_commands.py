"""Packs, choices and backtests from the command line: what is sent, and what is shown."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from detect.sigma.pack import source_digest, unpack
from hunt.rule_files import rule_digest

RULE = "title: A\nid: 00000000-0000-4000-8000-000000000001\n"
MINE = "/api/admin/tenants/default/rules"
PACK = {
    "name": "own", "digest": "d" * 64, "origin": "e" * 64, "rules": 1, "correlations": 0, "filters": 0, "broken": 1,
    "installed_by": "admin", "installed_at": "2026-03-01T00:00:00.000000Z", "new": True,
    "problems": [{"path": "b.yml", "line": 3, "rule_id": None, "reason": "must have a title"}],
}  # fmt: skip
CHOICE = {
    "tenant": "default", "version": 4, "packs": [{"name": "starter", "digest": None, "used": "a" * 64}],
    "overlay": {"rules": {"x": {"enabled": False}}}, "rule_set": "b" * 64, "in_force": True, "next_expiry": None,
    "refused": None, "changed_by": "admin", "changed_at": "2026-03-01T00:00:00.000000Z",
    "counts": {"on": 70, "silent": 2, "off": 1, "broken": 0}, "problems": [], "unknown_rules": ["x"],
}  # fmt: skip


def test_a_folder_is_installed_with_paths_below_it_and_an_archive_as_it_is(
    run: Any, server: Any, tmp_path: Path
) -> None:
    server.answers("POST /api/admin/rule-packs", PACK)
    folder = tmp_path / "rules"
    (folder / "linux").mkdir(parents=True)
    (folder / "linux" / "a.yml").write_text(RULE)
    outcome = run("rules", "install", str(folder), "--name", "own")
    assert outcome.code == 0
    assert "b.yml:3: must have a title" in outcome.out
    archive = tmp_path / "rules.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        member = tarfile.TarInfo("a.yml")
        member.size = len(RULE)
        packed.addfile(member, io.BytesIO(RULE.encode()))
    assert run("rules", "install", str(archive), "--name", "own").code == 0
    sent = [asked.body for asked in server.asked_for("POST /api/admin/rule-packs")]
    assert unpack(sent[0]) == [("linux/a.yml", RULE)]
    assert sent[1] == archive.read_bytes()


def test_what_is_installed_meets_the_pin_that_the_digest_command_says(
    run: Any, server: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    server.answers("POST /api/admin/rule-packs", PACK)
    (tmp_path / "linux").mkdir()
    (tmp_path / "linux" / "a.yml").write_text(RULE)
    (tmp_path / "linux" / "a.test.yml").write_text("rule: a\n")
    monkeypatch.chdir(tmp_path)
    for typed, names in ((".", {"linux/a.test.yml", "linux/a.yml"}), ("linux/a.yml", {"a.yml"})):
        pin = rule_digest(typed)
        assert run("rules", "install", typed, "--name", "own", "--sha256", pin).code == 0
        sent = unpack(server.asked_for("POST /api/admin/rule-packs")[-1].body)
        assert {name for name, _ in sent} == names
        assert source_digest(sent) == pin


def test_a_choice_keeps_what_no_option_names(run: Any, server: Any) -> None:
    server.answers(f"GET {MINE}", CHOICE)
    server.answers(f"PUT {MINE}", CHOICE | {"version": 5})
    outcome = run("rules", "choose", "--pack", "starter", "--pack", f"own@{'d' * 64}")
    assert outcome.code == 0
    assert "70 on, 2 silent, 1 off" in outcome.out
    [asked] = server.asked_for(f"PUT {MINE}")
    assert json.loads(asked.body) == {
        "version": 4,
        "packs": [{"name": "starter", "digest": None}, {"name": "own", "digest": "d" * 64}],
        "overlay": CHOICE["overlay"],
    }
    assert run("rules", "choose").code == 2, "it must say what to change"


def test_a_version_is_chosen_by_the_beginning_of_its_digest(run: Any, server: Any) -> None:
    older, newer = PACK | {"digest": "ab" * 32}, PACK | {"digest": "ac" * 32}
    server.answers("GET /api/admin/rule-packs/own", newer | {"versions": [newer, older]})
    server.answers(f"GET {MINE}", CHOICE)
    server.answers(f"PUT {MINE}", CHOICE | {"version": 5})
    shown = run("rules", "packs", "own")
    assert shown.code == 0
    assert older["digest"][:12] in shown.out and newer["digest"][:12] in shown.out
    assert run("rules", "choose", "--pack", f"own@{older['digest'][:12]}").code == 0
    [asked] = server.asked_for(f"PUT {MINE}")
    assert json.loads(asked.body)["packs"] == [{"name": "own", "digest": older["digest"]}]
    for beginning, count in (("a", 2), ("ff", 0)):
        refused = run("rules", "choose", "--pack", f"own@{beginning}")
        assert refused.code == 2
        assert f"{count} versions of own begin with {beginning}" in refused.err


def test_what_cannot_be_read_is_one_line(run: Any, server: Any, tmp_path: Path) -> None:
    outcome = run("rules", "install", str(tmp_path / "nothing"), "--name", "own")
    assert outcome.code == 2
    assert "does not exist" in outcome.err
    (tmp_path / "empty").mkdir()
    assert run("rules", "backtest", str(tmp_path / "empty"), "--since", "7d").code == 2
