"""Rules from where people keep them: files, folders, archives. What cannot be read is named; the rest goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from detect.sigma.archive import (
    MAX_MEMBERS,
    MAX_RULE_FILE_BYTES,
    PackContent,
    PackProblem,
    is_archive,
    is_rule_file,
    is_test_file,
    unpack_archive,
)
from detect.sigma.pack import BadPack, source_digest, starter_pack
from hunt.plain_text import printable_name

MAX_ARCHIVE_BYTES: Final = 256 << 20


class UnusableRules(ValueError):
    """A path that gives no rules at all, or not those that were pinned; the text names it."""


class RuleFiles(NamedTuple):
    """The rule sources of some paths, the files of tests beside them, and what was left out, with the reason."""

    sources: list[tuple[str, str]]
    tests: list[tuple[str, str]]
    problems: list[PackProblem]


def read_rule_files(paths: Sequence[str], pins: Sequence[str] = ()) -> RuleFiles:
    """The rules of files, folders and archives, sources named by their paths; of none, the starter pack's.

    `pins` are SHA-256 digests in hex, one for each path in order: of an archive's bytes, or of what a path holds
    (source_digest). Raises UnusableRules for a path that is not there, an archive that is none, and a pin not met.
    """
    if pins and len(pins) != len(paths):
        raise UnusableRules(f"{len(pins)} digests for {len(paths)} rule paths: give one for each, in the same order")
    if not paths:
        return _sorted(PackContent(starter_pack(), []))
    gathered = PackContent([], [])
    for number, path in enumerate(paths):
        found = _read(Path(path), pins[number].lower() if pins else "")
        gathered.sources.extend(found.sources)
        gathered.problems.extend(found.problems)
    return _sorted(gathered)


def rule_digest(path: str) -> str:
    """SHA-256 in hex of what a path holds, whatever it is packed in; the digest that a pin states."""
    return source_digest(rule_content(path).sources)


def rule_content(path: str) -> PackContent:
    """What a path holds, tests and all, under names relative to it: of a single file, its own. Raises UnusableRules."""
    return _content(Path(path))[0]


def _sorted(content: PackContent) -> RuleFiles:
    rules = [source for source in content.sources if not is_test_file(source[0])]
    tests = [source for source in content.sources if is_test_file(source[0])]
    return RuleFiles(rules, tests, content.problems)


def _read(path: Path, pin: str) -> PackContent:
    content, archive_digest = _content(path)
    if pin and pin not in (archive_digest, source_digest(content.sources)):
        digest = archive_digest or source_digest(content.sources)
        raise UnusableRules(f"{path} is not what was pinned: its SHA-256 is {digest}")
    above = path if path.is_dir() or archive_digest else path.parent
    prefix = "" if str(above) == "." else f"{printable_name(above.as_posix()).rstrip('/')}/"
    return PackContent(
        [(f"{prefix}{name}", text) for name, text in content.sources],
        [PackProblem(f"{prefix}{problem.path}", problem.reason) for problem in content.problems],
    )


def _content(path: Path) -> tuple[PackContent, str]:
    """What a path holds, under names relative to it; with the SHA-256 of its bytes for an archive."""
    if path.is_dir():
        return _folder(path), ""
    if not path.exists():
        raise UnusableRules(f"{path} does not exist")
    try:
        if path.stat().st_size > MAX_ARCHIVE_BYTES:
            raise UnusableRules(f"{path} has more than {MAX_ARCHIVE_BYTES >> 20} MiB: that is no rule pack")
        data = path.read_bytes()
    except OSError as error:
        raise UnusableRules(f"{path} cannot be read: {error.strerror or error}") from error
    if is_archive(data):
        try:
            return unpack_archive(data), hashlib.sha256(data).hexdigest()
        except BadPack as error:
            raise UnusableRules(f"{path}: {error}") from error
    return _decoded(path.name, data), ""


def _decoded(name: str, data: bytes) -> PackContent:
    name = printable_name(name)
    if len(data) > MAX_RULE_FILE_BYTES:
        return PackContent([], [PackProblem(name, f"larger than {MAX_RULE_FILE_BYTES >> 20} MiB")])
    try:
        return PackContent([(name, data.decode("utf-8-sig"))], [])
    except UnicodeDecodeError as error:
        return PackContent([], [PackProblem(name, f"not UTF-8 at byte {error.start}")])


def _folder(top: Path) -> PackContent:
    content = PackContent([], [])
    for count, path in enumerate(_rule_paths(top, content.problems)):
        if count >= MAX_MEMBERS:
            raise UnusableRules(f"{top} holds more than {MAX_MEMBERS} rule files")
        name = path.relative_to(top).as_posix()
        try:
            found = _decoded(name, path.read_bytes())
        except OSError as error:
            content.problems.append(PackProblem(name, f"cannot be read: {error.strerror or error}"))
            continue
        content.sources.extend(found.sources)
        content.problems.extend(found.problems)
    return content


def _rule_paths(folder: Path, problems: list[PackProblem]) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        problems.append(PackProblem(folder.as_posix(), f"cannot be read: {error.strerror or error}"))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not entry.is_symlink():  # a link could lead in a circle, or out
                yield from _rule_paths(entry, problems)
        elif is_rule_file(entry.name) and entry.is_file():
            yield entry
