"""Packaging, type checking and the import contracts must speak of the same packages."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_packaging_mypy_and_import_linter_list_the_same_packages() -> None:
    packaged = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    on_disk = sorted(path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name != "bench")
    assert sorted(packaged) == on_disk
    assert sorted(PROJECT["tool"]["mypy"]["packages"]) == sorted(packaged)
    assert sorted(PROJECT["tool"]["importlinter"]["root_packages"]) == sorted(packaged)


def test_every_dependency_of_the_project_is_pinned_in_the_locks() -> None:
    def names(path: str) -> set[str]:
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        return {line.partition("==")[0].lower() for line in lines if line[:1].isalnum()}

    def wanted(requirements: list[str]) -> set[str]:
        cut = str.maketrans(dict.fromkeys("<>=!;[ ", "\n"))
        return {requirement.translate(cut).partition("\n")[0].lower() for requirement in requirements}

    extras = PROJECT["project"]["optional-dependencies"]
    base = wanted(PROJECT["project"]["dependencies"])
    assert base <= names("requirements/base.txt")
    assert base | wanted(extras["dev"]) <= names("requirements/dev.txt")
    assert wanted(extras["llm"]) <= names("requirements/llm.txt") | names("requirements/torch.txt")


def test_the_core_cannot_look_at_the_clock(tmp_path: Path) -> None:
    offender = tmp_path / "detect" / "offender.py"
    offender.parent.mkdir()
    offender.write_text('"""Looks at the clock."""\n\nimport time\n\nNOW = time.time()\n', encoding="utf-8")
    ruff = Path(sys.executable).parent / "ruff"
    command = [str(ruff), "check", "--config", str(ROOT / "pyproject.toml"), "--output-format", "concise"]
    report = subprocess.run([*command, str(offender)], capture_output=True, text=True, check=False)
    assert "TID251" in report.stdout
