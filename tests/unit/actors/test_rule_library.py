"""Rule sets in memory: one matcher for equal rules, and none for rules that nobody is judged by."""

from __future__ import annotations

import asyncio
import gc

from actors.rules import RuleLibrary
from detect.batch import Batch
from detect.sigma import load_rule_set, pack_bytes
from tests.unit.sigma.records import record, rule_text

TEXT = rule_text("a: {f: x}\ncondition: a")


def sources(*notes: str) -> list[tuple[str, str]]:
    """One rule, and documents that are refused: they change the digest and no rule."""
    return [("a.yml", TEXT), *((f"{note}.yml", f"{note}: not a rule") for note in notes)]


def digest(*notes: str) -> str:
    return load_rule_set(sources(*notes)).digest


def library(*sets: tuple[str, ...], most_unused: int | None = None) -> RuleLibrary:
    packs = {digest(*notes): pack_bytes(sources(*notes)) for notes in sets}

    async def fetch(wanted: str) -> bytes | None:
        return packs.get(wanted)

    return RuleLibrary(fetch, most_unused=most_unused)


def is_loaded(made: RuleLibrary, wanted: str) -> bool:
    gc.collect()
    try:
        made.resolve(wanted)
    except LookupError:
        return False
    return True


def test_sets_with_equal_rules_share_a_matcher_and_keep_their_own_errors() -> None:
    made = library((), ("note",))
    plain, noted = (asyncio.run(made.load(digest(*notes))) for notes in ((), ("note",)))
    assert plain is not None and noted is not None
    assert plain.matcher is noted.matcher
    assert (len(plain.rules.errors), len(noted.rules.errors)) == (0, 1)
    assert made.resolve(digest("note")).digest == digest("note")
    [match] = made.matcher(made.resolve(digest("note")).rules).match(record({"f": "x"}))
    assert match.rule == plain.rules.rules[0]


def test_what_nobody_is_judged_by_is_dropped_but_for_the_last_few() -> None:
    sets = [(str(number),) for number in range(4)]
    made = library(*sets, most_unused=2)
    for notes in sets:
        asyncio.run(made.load(digest(*notes)))
    assert [is_loaded(made, digest(*notes)) for notes in sets] == [False, False, True, True]


def test_a_set_stays_loaded_for_who_matches_with_it() -> None:
    made = library((), ("a",), ("b",), most_unused=1)
    asyncio.run(made.load(digest()))
    matcher = made.matcher(made.resolve(digest()).rules)
    for note in "ab":
        asyncio.run(made.load(digest(note)))
    assert is_loaded(made, digest())
    assert len(matcher.match(record({"f": "x"}))) == 1
    del matcher
    assert not is_loaded(made, digest())
    asyncio.run(made.load(digest()))
    assert is_loaded(made, digest())


def test_what_a_batch_puts_in_force_stays_loaded_as_long_as_it_is_held() -> None:
    made = library(("a",), ("b",), most_unused=1)
    rows = [Batch(1, 0, "control", b'{"type":"rules","digest":"%s"}' % digest(note).encode()) for note in "ab"]
    held = [asyncio.run(made.load_for(row)) for row in rows]
    assert all(is_loaded(made, digest(note)) for note in "ab")
    held.clear()
    assert not is_loaded(made, digest("a"))
    assert asyncio.run(made.load_for(Batch(1, 0, "otlp_json", b"{}"))) is None


def test_each_of_two_sets_with_equal_rules_stays_loaded_for_who_matches_with_it() -> None:
    made = library((), ("note",), ("other",), most_unused=1)
    first, second = (asyncio.run(made.load(digest(*notes))) for notes in ((), ("note",)))
    assert first is not None and second is not None
    assert second.rules.rules[0] is first.rules.rules[0], "the rules are in memory once"
    matchers = [made.matcher(made.resolve(digest(*notes)).rules) for notes in ((), ("note",))]
    assert matchers == [first, second]
    del first, second
    asyncio.run(made.load(digest("other")))
    assert is_loaded(made, digest()) and is_loaded(made, digest("note"))
    assert all(len(matcher.match(record({"f": "x"}))) == 1 for matcher in matchers)
