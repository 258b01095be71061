"""Rules from files, folders and archives: all that is sound loads, all that is not is named, nothing is believed."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.sigma import archive, pack_bytes
from detect.sigma.archive import PackContent, is_archive, unpack_archive
from detect.sigma.pack import BadPack, source_digest
from hunt.rule_files import UnusableRules, read_rule_files, rule_digest

Members = dict[str, bytes]
GOOD: Members = {"rules/a.yml": b"title: A", "rules/b.yaml": "title: é".encode(), "LICENSE": b"text"}
EXPECTED = [("rules/a.yml", "title: A"), ("rules/b.yaml", "title: é")]


def tar(members: Members, mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as packed:  # type: ignore[call-overload]  # the mode is one of its own
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def zipped(members: Members) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [tar(GOOD), tar(GOOD, "w"), tar(GOOD, "w:bz2"), tar(GOOD, "w:xz"), zipped(GOOD), pack_bytes(EXPECTED)],
    ids=["tar.gz", "tar", "tar.bz2", "tar.xz", "zip", "own"],
)
def test_every_kind_of_archive_gives_the_same_sources_whatever_its_order(data: bytes) -> None:
    assert is_archive(data)
    assert unpack_archive(data) == PackContent(EXPECTED, [])
    assert unpack_archive(tar(dict(reversed(GOOD.items())))) == PackContent(EXPECTED, [])


@pytest.mark.parametrize("pack", [tar, zipped], ids=["tar", "zip"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../../etc/cron.d/x.yml", "leads out"),
        ("/etc/x.yml", "leads out"),
        ("a/../b.yml", "leads out"),
        ("C:\\x.yml", "characters"),
        ("a\nb.yml", "characters"),
        ("x" * 2000 + ".yml", "characters"),
    ],
)
def test_a_path_with_tricks_is_refused_by_name(pack: object, name: str, reason: str) -> None:
    content = unpack_archive(pack({name: b"title: Evil", **GOOD}))  # type: ignore[operator]  # both take members
    assert content.sources == EXPECTED
    assert [reason in problem.reason for problem in content.problems] == [True]


def test_links_and_devices_are_refused_by_name() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as packed:
        for name, kind in (
            ("link.yml", tarfile.SYMTYPE),
            ("hard.yml", tarfile.LNKTYPE),
            ("pipe.yml", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            packed.addfile(info)
    problems = unpack_archive(stream.getvalue()).problems
    assert [(problem.path, problem.reason) for problem in problems] == [
        ("hard.yml", "it is a link"),
        ("link.yml", "it is a link"),
        ("pipe.yml", "it is no plain file"),
    ]
    linked = io.BytesIO()
    with zipfile.ZipFile(linked, "w") as packed_zip:
        info = zipfile.ZipInfo("link.yml")
        info.external_attr = 0o120777 << 16
        packed_zip.writestr(info, "/etc/passwd")
    assert unpack_archive(linked.getvalue()).problems[0].reason == "it is a link"


def test_what_is_no_utf8_or_huge_or_there_twice_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_RULE_FILE_BYTES", 100)
    twice = io.BytesIO()
    with tarfile.open(fileobj=twice, mode="w") as packed:
        for text in (b"title: A", b"title: B"):
            info = tarfile.TarInfo("a.yml")
            info.size = len(text)
            packed.addfile(info, io.BytesIO(text))
    content = unpack_archive(twice.getvalue())
    assert content.sources == [("a.yml", "title: A")] and "twice" in content.problems[0].reason
    for pack in (tar, zipped):
        content = unpack_archive(pack({"latin.yml": b"title: \xe9", "huge.yml": b"#" * 101, "fine.yml": b"#" * 100}))
        assert [path for path, _ in content.sources] == ["fine.yml"]
        assert [(problem.path, problem.reason) for problem in content.problems] == [
            ("huge.yml", "larger than 0 MiB"),
            ("latin.yml", "not UTF-8 at byte 7"),
        ]


@pytest.mark.parametrize("pack", [tar, zipped], ids=["tar", "zip"])
def test_a_bomb_is_stopped_at_the_bound(pack: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_UNPACKED_BYTES", 100_000)
    with pytest.raises(BadPack, match="unpacks to more than"):
        unpack_archive(pack({f"{n}.yml": b"#" * 60_000 for n in range(3)}))  # type: ignore[operator]  # as above


def test_too_many_members_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 2)
    with pytest.raises(BadPack, match="more than 2 members"):
        unpack_archive(tar(GOOD))


@given(st.binary(max_size=80), st.sampled_from([b"", b"\x1f\x8b", b"PK\x03\x04", b"BZh9", b"\xfd7zXZ\x00"]))
def test_hostile_bytes_are_a_bad_pack_and_nothing_else(data: bytes, start: bytes) -> None:
    try:
        assert unpack_archive(start + data).sources == []
    except BadPack:
        return


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_archive_never_does_worse_than_bad_pack(position: int, value: int) -> None:
    for data in (bytearray(tar(GOOD)), bytearray(zipped(GOOD))):
        data[position % len(data)] = value
        try:
            content = unpack_archive(bytes(data))
        except BadPack:
            continue
        assert {path for path, _ in content.sources} <= {"rules/a.yml", "rules/b.yaml"} or content.sources


def test_folders_archives_and_files_are_read_together_and_tests_kept_apart(tmp_path: Path) -> None:
    folder, packed, single = tmp_path / "mine", tmp_path / "theirs.zip", tmp_path / "one.yml"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.yml").write_text("title: A")
    (folder / "a.test.yml").write_text("rule: a")
    (folder / "notes.txt").write_text("no rule")
    (folder / "bad.yml").write_bytes(b"\xff")
    (folder / "loop").symlink_to(folder)
    packed.write_bytes(zipped(GOOD))
    single.write_text("title: One")
    files = read_rule_files([str(folder), str(packed), str(single)])
    assert [path.removeprefix(tmp_path.as_posix()) for path, _ in files.sources] == [
        "/mine/deep/a.yml",
        "/theirs.zip/rules/a.yml",
        "/theirs.zip/rules/b.yaml",
        "/one.yml",
    ]
    assert [path.removeprefix(tmp_path.as_posix()) for path, _ in files.tests] == ["/mine/a.test.yml"]
    assert [str(problem).removeprefix(tmp_path.as_posix()) for problem in files.problems] == [
        "/mine/bad.yml: not UTF-8 at byte 0"
    ]


def test_without_paths_the_starter_pack_is_meant() -> None:
    assert len(read_rule_files([]).sources) > 40


def test_a_pin_must_be_met_by_the_archive_or_by_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "rules.zip"
    path.write_bytes(zipped(GOOD))
    of_bytes, of_content = hashlib.sha256(path.read_bytes()).hexdigest(), source_digest(EXPECTED)
    assert rule_digest(str(path)) == of_content
    for pin in (of_bytes, of_content, of_bytes.upper()):
        assert len(read_rule_files([str(path)], [pin]).sources) == 2
    with pytest.raises(UnusableRules, match=f"not what was pinned: its SHA-256 is {of_bytes}"):
        read_rule_files([str(path)], ["0" * 64])
    with pytest.raises(UnusableRules, match="1 digests for 2 rule paths"):
        read_rule_files([str(path), str(path)], [of_bytes])


def test_a_digest_does_not_depend_on_how_the_path_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    (tmp_path / "mine" / "deep" / "a.yml").write_text("title: A")
    expected = source_digest([("deep/a.yml", "title: A")])
    of_file = source_digest([("a.yml", "title: A")])
    assert rule_digest(str(tmp_path / "mine")) == expected
    assert rule_digest(str(tmp_path / "mine" / "deep" / "a.yml")) == of_file
    monkeypatch.chdir(tmp_path / "mine")
    for typed in (".", "./", "../mine"):
        assert rule_digest(typed) == expected
        assert len(read_rule_files([typed], [expected]).sources) == 1
    assert rule_digest("deep/a.yml") == of_file
    assert read_rule_files([".", "deep/a.yml"]).sources == [("deep/a.yml", "title: A")] * 2


def test_a_path_that_is_not_there_or_an_archive_that_is_none_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "x.tar.gz"
    broken.write_bytes(b"\x1f\x8bnonsense")
    with pytest.raises(UnusableRules, match="does not exist"):
        read_rule_files([str(tmp_path / "absent")])
    with pytest.raises(UnusableRules, match="damaged"):
        read_rule_files([str(broken)])
