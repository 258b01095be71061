"""Compiled rules on disk: read back, bounded, and never in the way."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from actors import rule_cache, rules
from actors.rule_cache import RuleCache
from actors.rules import RuleLibrary
from detect.sigma import RuleSet, load_rule_set, pack_bytes
from detect.sigma.codec import CompiledRules
from detect.sigma.scanner import usable_engine
from tests.unit.sigma.records import loaded, rule_text

ENGINE = usable_engine().name


def rule_set(word: str = "x") -> RuleSet:
    return loaded(rule_text(f"a: {{f: {word}}}\ncondition: a"))


def kept(folder: Path, rule_sets: list[RuleSet]) -> RuleCache:
    cache = RuleCache(folder)
    for item in rule_sets:
        cache.write(CompiledRules(item, ENGINE, {}))
    return cache


def test_what_is_written_is_read_by_its_digest(tmp_path: Path) -> None:
    cache = kept(tmp_path / "new" / "folder", [rule_set()])
    read = cache.read(rule_set().digest, ENGINE)
    assert read is not None and read.rules == rule_set()
    assert cache.read(rule_set("y").digest, ENGINE) is None
    assert (tmp_path / "new" / "folder").stat().st_mode & 0o777 == 0o700


def test_only_the_files_that_were_used_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_cache, "MAX_FILES", 3)
    sets = [rule_set(f"word{number}") for number in range(5)]
    cache = kept(tmp_path / "c", sets[:3])
    for age, item in enumerate(sets[:3]):
        os.utime(next((tmp_path / "c").glob(f"{item.digest}-*")), (1000 + age, 1000 + age))
    assert cache.read(sets[0].digest, ENGINE) is not None
    kept(tmp_path / "c", sets[3:])
    assert [cache.read(item.digest, ENGINE) is not None for item in sets] == [True, False, False, True, True]
    assert len(list((tmp_path / "c").iterdir())) == 3


def test_what_a_killed_process_left_unfinished_is_removed_in_time(tmp_path: Path) -> None:
    kept(tmp_path / "c", [rule_set()])
    left, fresh = tmp_path / "c" / "left.part", tmp_path / "c" / "fresh.part"
    left.touch()
    fresh.touch()
    os.utime(left, (1000, 1000))
    kept(tmp_path / "c", [rule_set("y")])
    assert [left.exists(), fresh.exists()] == [False, True]


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    cache = kept(tmp_path / "c", [rule_set()])
    [path] = (tmp_path / "c").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert cache.read(rule_set().digest, ENGINE) is None
    kept(tmp_path / "c", [rule_set()])
    assert cache.read(rule_set().digest, ENGINE) is not None


def test_a_file_of_another_rule_set_is_not_believed(tmp_path: Path) -> None:
    cache = kept(tmp_path / "c", [rule_set()])
    [path] = (tmp_path / "c").iterdir()
    path.rename(path.with_name(path.name.replace(rule_set().digest, rule_set("y").digest)))
    assert cache.read(rule_set("y").digest, ENGINE) is None


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_can_write_to_is_not_used(tmp_path: Path, mode: int) -> None:
    cache = kept(tmp_path / "c", [rule_set()])
    (tmp_path / "c").chmod(mode)
    assert cache.read(rule_set().digest, ENGINE) is None
    kept(tmp_path / "c", [rule_set("y")])
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    kept(tmp_path / "c", [rule_set()])
    (tmp_path / "link").symlink_to(tmp_path / "c")
    assert RuleCache(tmp_path / "link").read(rule_set().digest, ENGINE) is None


def test_where_nothing_can_be_written_nothing_is_kept_and_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = kept(tmp_path / "file", [rule_set()])
    assert cache.read(rule_set().digest, ENGINE) is None
    assert kept(tmp_path / "file" / "below", [rule_set()]).read(rule_set().digest, ENGINE) is None


def test_a_disk_that_fills_up_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    cache = kept(tmp_path / "c", [rule_set()])
    assert list((tmp_path / "c").iterdir()) == []
    assert cache.read(rule_set().digest, ENGINE) is None


def test_a_folder_that_is_not_named_is_one_of_this_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    for named in (str(tmp_path / "named"), ""):
        RuleCache.at(named).write(CompiledRules(rule_set(), ENGINE, {}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["named", f"trustsoc-rules-{os.getuid()}"]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o700}
    assert all(len(list(path.iterdir())) == 1 for path in tmp_path.iterdir())


def test_a_library_parses_a_pack_once_for_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [("a.yml", rule_text("a: {f: x}\ncondition: a"))]
    fetched: list[str] = []

    async def fetch(digest: str) -> bytes | None:
        fetched.append(digest)
        return pack_bytes(sources)

    async def load(digest: str) -> RuleLibrary:
        library = RuleLibrary(fetch, RuleCache(tmp_path / "c"))
        await library.load(digest)
        await library.load(digest)
        return library

    digest = load_rule_set(sources).digest
    first = asyncio.run(load(digest))
    monkeypatch.setattr(rules, "unpack", None)  # nobody unpacks a pack that was compiled
    second = asyncio.run(load(digest))
    assert fetched == [digest]
    assert second.resolve(digest) == first.resolve(digest)
    given_rules = second.resolve(digest).rules
    assert second.matcher(given_rules) is second.matcher(given_rules)


def test_a_set_that_shares_the_matcher_of_another_is_kept_as_well(tmp_path: Path) -> None:
    rule = ("a.yml", rule_text("a: {f: x}\ncondition: a"))
    noted = [rule, ("note.yml", "note: not a rule")]
    packs = {load_rule_set(sources).digest: pack_bytes(sources) for sources in ([rule], noted)}

    async def fetch(digest: str) -> bytes | None:
        return packs[digest]

    cache = RuleCache(tmp_path / "c")
    library = RuleLibrary(fetch, cache)
    for digest in packs:
        asyncio.run(library.load(digest))
    for digest in packs:
        read = cache.read(digest, ENGINE)
        assert read is not None
        assert read.rules == library.resolve(digest)
