"""Our own response playbooks: markdown with front matter in `playbooks/`, read into numbered steps."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

PHASES: tuple[str, ...] = ("triage", "contain", "eradicate", "recover", "learn")
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n(.*)\Z", re.DOTALL)
_STEP = re.compile(r"(\d+)\. +(.+)")
_DISRUPTIVE = "(disruptive) "
_PLAYBOOK_ID = re.compile(r"PB(-[A-Z0-9]+)+")
_TECHNIQUE_ID = re.compile(r"T\d{4}(\.\d{3})?")


class PlaybookError(Exception):
    """A playbook file is not in the form that `read_playbook` describes; the message names file, line and reason."""


@dataclass(frozen=True, slots=True)
class PlaybookStep:
    """One thing to do. `disruptive` steps interrupt users or services and need a person's approval."""

    id: str
    phase: str
    text: str
    disruptive: bool


@dataclass(frozen=True, slots=True)
class Playbook:
    """Ordered steps against the named ATT&CK techniques."""

    id: str
    title: str
    techniques: tuple[str, ...]
    steps: tuple[PlaybookStep, ...]


def load_playbooks() -> tuple[Playbook, ...]:
    """All packaged playbooks, by id. Raises PlaybookError."""
    folder = files("rag_corpus") / "playbooks"
    sources = sorted((item for item in folder.iterdir() if item.name.endswith(".md")), key=lambda item: item.name)
    playbooks = [read_playbook(source.read_text("utf-8"), source.name) for source in sources]
    twice = _repeated(playbook.id for playbook in playbooks)
    if twice:
        raise PlaybookError(f"playbook id {twice} is used by two files")
    return tuple(sorted(playbooks, key=lambda playbook: playbook.id))


def read_playbook(text: str, name: str) -> Playbook:
    """Read one file: front matter (`id`, `title`, `techniques`), then `## Phase` headings in the order of `PHASES`
    with steps `1. text` or `1. (disruptive) text`, numbered through, one line each. Raises PlaybookError."""
    match = _FRONT_MATTER.match(text)
    if match is None:
        raise PlaybookError(f"{name}: begins with no front matter between two lines of ---")
    identity, title, techniques = _identity(match.group(1), name)
    first_line = match.group(1).count("\n") + 4
    steps: list[PlaybookStep] = []
    phase: str | None = None
    for number, line in enumerate(match.group(2).splitlines(), start=first_line):
        if not line.strip():
            continue
        if line.startswith("## "):
            phase = _next_phase(line.removeprefix("## ").strip().lower(), phase, f"{name}:{number}")
            continue
        step = _STEP.fullmatch(line.strip())
        if step is None or phase is None:
            raise PlaybookError(f"{name}:{number}: neither a phase heading nor a numbered step under one: {line!r}")
        if int(step.group(1)) != len(steps) + 1:
            raise PlaybookError(f"{name}:{number}: step {step.group(1)} should be number {len(steps) + 1}")
        words = step.group(2)
        disruptive = words.startswith(_DISRUPTIVE)
        steps.append(
            PlaybookStep(f"{identity}/{len(steps) + 1}", phase, words.removeprefix(_DISRUPTIVE).strip(), disruptive)
        )
    if not steps:
        raise PlaybookError(f"{name}: has no steps")
    return Playbook(identity, title, techniques, tuple(steps))


def _identity(front_matter: str, name: str) -> tuple[str, str, tuple[str, ...]]:
    try:
        fields: Any = yaml.safe_load(front_matter)
    except yaml.YAMLError as error:
        raise PlaybookError(f"{name}: front matter is not YAML: {error}") from error
    if not isinstance(fields, dict) or set(fields) != {"id", "title", "techniques"}:
        raise PlaybookError(f"{name}: front matter must have exactly id, title and techniques")
    identity, title, techniques = fields["id"], fields["title"], fields["techniques"]
    if not isinstance(identity, str) or not _PLAYBOOK_ID.fullmatch(identity):
        raise PlaybookError(f"{name}: id {identity!r} is not of the form PB-NAME")
    if not isinstance(title, str) or not title.strip():
        raise PlaybookError(f"{name}: title is missing")
    if not isinstance(techniques, list) or not techniques:
        raise PlaybookError(f"{name}: techniques must be a list of ATT&CK ids")
    for technique in techniques:
        if not isinstance(technique, str) or not _TECHNIQUE_ID.fullmatch(technique):
            raise PlaybookError(f"{name}: {technique!r} is not an ATT&CK technique id")
    if len(set(techniques)) != len(techniques):
        raise PlaybookError(f"{name}: technique {_repeated(techniques)} is listed twice")
    return identity, title.strip(), tuple(techniques)


def _next_phase(phase: str, before: str | None, where: str) -> str:
    if phase not in PHASES:
        raise PlaybookError(f"{where}: {phase!r} is none of {', '.join(PHASES)}")
    if before is not None and PHASES.index(phase) <= PHASES.index(before):
        raise PlaybookError(f"{where}: phase {phase} comes after {before}")
    return phase


def _repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
