"""A compiled rule set as bytes: what is read is what was written, and everything else is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.record import Entity
from detect.sigma import CompiledMatcher, NaiveMatcher, RuleSet, codec, load_rule_set, starter_pack
from detect.sigma.codec import BadCompiled, CompiledRules, pack_compiled, unpack_compiled
from detect.sigma.expected_logsources import expected_logsources
from detect.sigma.scanner import FinderShelf, usable_engine
from tests.unit.sigma.records import loaded, record, rule_text

ENGINE = usable_engine().name


def compiled(rules: RuleSet) -> CompiledRules:
    matcher = CompiledMatcher(rules.rules)
    matcher.prepare(expected_logsources(rules.rules))
    return CompiledRules(rules, ENGINE, matcher.shelf.dumps())


@pytest.fixture(scope="module")
def packed() -> bytes:
    return pack_compiled(compiled(load_rule_set(starter_pack()[:20])))


def test_what_is_read_is_what_was_written(packed: bytes) -> None:
    rules = load_rule_set(starter_pack()[:20])
    read = unpack_compiled(packed, ENGINE)
    assert read.rules == rules
    assert pack_compiled(read) == packed


def test_a_matcher_of_what_was_read_finds_the_same() -> None:
    words = ", ".join(f"word{number}" for number in range(30))
    text = rule_text(f"a: {{f|contains: [{words}]}}\nb: {{f|re: 'x{{2}}'}}\ncondition: a or b")
    read = unpack_compiled(pack_compiled(compiled(loaded(text))), ENGINE)
    shelf = FinderShelf(usable_engine(), read.dumps)
    matcher = CompiledMatcher(read.rules.rules, shelf)
    for value in ("A WORD17.", "xx", "word", ""):
        given_record = record({"f": value})
        assert matcher.match(given_record) == NaiveMatcher(read.rules.rules).match(given_record)
    assert shelf.dumps() == read.dumps


@given(st.data())
def test_damage_is_seen(packed: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(packed) - 1))
    damaged = bytearray(packed)
    damaged[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadCompiled):
        unpack_compiled(bytes(damaged), ENGINE)
    with pytest.raises(BadCompiled):
        unpack_compiled(packed[:place], ENGINE)


@given(st.binary(max_size=60))
def test_bytes_that_are_something_else_are_refused(data: bytes) -> None:
    with pytest.raises(BadCompiled):
        unpack_compiled(codec.MAGIC + data, ENGINE)
    with pytest.raises(BadCompiled):
        unpack_compiled(data, ENGINE)


def test_what_another_program_compiled_is_refused(packed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "program_digest", lambda: "another")
    with pytest.raises(BadCompiled, match="another version"):
        unpack_compiled(packed, ENGINE)


def test_databases_of_another_engine_are_left_out(packed: bytes) -> None:
    assert unpack_compiled(packed, "another engine").dumps == {}


def resealed(packed: bytes, change: str) -> bytes:
    """The bytes with a part of their content changed and the checksum made to fit."""
    start = len(codec.MAGIC) + codec._CHECK_BYTES
    content = msgspec.msgpack.decode(packed[start:], type=codec._Content)
    classes = content.classes
    match change:
        case "foreign class":
            classes = [("subprocess", "Popen", ["args"]), *classes[1:]]
        case "function":
            classes = [("detect.sigma.load", "load_rule_set", []), *classes[1:]]
        case "fields":
            classes = [(classes[0][0], classes[0][1], [*classes[0][2], "more"]), *classes[1:]]
        case "unknown number":
            return codec._sealed(msgspec.structs.replace(content, rules=[999, 1]))
        case "no rule set":
            return codec._sealed(msgspec.structs.replace(content, rules=[0, 1, 2]))
    return codec._sealed(msgspec.structs.replace(content, classes=classes))


@pytest.mark.parametrize("change", ["foreign class", "function", "fields", "unknown number", "no rule set"])
def test_only_our_own_data_is_made(packed: bytes, change: str) -> None:
    with pytest.raises(BadCompiled):
        unpack_compiled(resealed(packed, change), ENGINE)


def test_a_rule_set_that_holds_what_cannot_be_written_says_so() -> None:
    rules = dataclasses.replace(load_rule_set([]), errors=(object(),))  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="object"):
        pack_compiled(CompiledRules(rules, ENGINE, {}))
    entity = dataclasses.replace(load_rule_set([]), errors=(Entity("ip", "::1"),))  # type: ignore[arg-type]  # as above
    assert unpack_compiled(pack_compiled(CompiledRules(entity, ENGINE, {})), ENGINE).rules == entity


READER = """
import sys
from pathlib import Path
import detect.tenant
from actors.rules import RuleLibrary
from detect.sigma import CompiledMatcher
from detect.sigma.codec import unpack_compiled
from detect.sigma.scanner import FinderShelf, usable_engine
read = unpack_compiled(Path(sys.argv[1]).read_bytes(), usable_engine().name)
matcher = CompiledMatcher(read.rules.rules, FinderShelf(usable_engine(), read.dumps))
print(len(read.rules.rules), sorted(name for name in sys.modules if name.partition(".")[0] in ("sigma", "yaml")))
"""


def test_a_process_that_reads_compiled_rules_does_not_import_pysigma(packed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_bytes(packed)
    done = subprocess.run([sys.executable, "-c", READER, str(path)], capture_output=True, text=True, check=True)
    count, _, modules = done.stdout.partition(" ")
    assert int(count) == len(load_rule_set(starter_pack()[:20]).rules)
    assert "sigma" not in modules
