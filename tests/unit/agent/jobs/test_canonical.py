"""The canonical form: one text for one value, and no other text is read as it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.canonical import MOST_BYTES, MOST_DEPTH, MOST_INTEGER, NotCanonical, canonical, read_canonical

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0", max_codepoint=0xFFFF), max_size=8)
scalars = st.none() | st.booleans() | st.integers(-MOST_INTEGER, MOST_INTEGER) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=20
)


@given(values)
def test_what_was_written_is_read_again_and_is_json(value: Any) -> None:
    data = canonical(value)
    assert read_canonical(data) == value
    assert json.loads(data) == value


@given(st.dictionaries(keys, scalars, min_size=2, max_size=6), st.randoms())
def test_the_order_in_which_an_object_was_made_does_not_show(value: dict[str, Any], rng: Any) -> None:
    shuffled = list(value.items())
    rng.shuffle(shuffled)
    assert canonical(dict(shuffled)) == canonical(value)


@given(st.dictionaries(keys, scalars, min_size=2, max_size=6))
def test_keys_stand_in_the_order_of_utf_16_as_rfc_8785_asks(value: dict[str, Any]) -> None:
    read = list(json.loads(canonical(value)))
    assert read == sorted(value, key=lambda key: key.encode("utf-16-be"))


@given(values, values)
def test_two_values_have_two_forms(one: Any, other: Any) -> None:
    # json tells 1 from true, Python's == does not.
    assume(json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True))
    assert canonical(one) != canonical(other)


@given(values, st.data())
def test_an_altered_byte_is_refused_or_says_something_else(value: Any, data: st.DataObject) -> None:
    good = canonical(value)
    place = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != good[place]))
    altered = good[:place] + bytes([byte]) + good[place + 1 :]
    try:
        assert canonical(read_canonical(altered)) == altered
    except NotCanonical:
        return


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_refused_or_are_the_form_of_what_they_say(data: bytes) -> None:
    try:
        value = read_canonical(data)
    except NotCanonical:
        return
    assert canonical(value) == data


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '{"b":1,"a":1}',
        '{"a": 1}',
        "[1 ]",
        " 1",
        "1\n",
        "1.0",
        "1e2",
        "-0",
        "01",
        "NaN",
        "Infinity",
        "-Infinity",
        "9007199254740992",
        "9" * 5000,
        '"\\u0041"',
        '"\\/"',
        '"\\u000A"',
        '"\\ud800"',
        '"\\u0000"',
        '"\t"',
        '{"\\ud83d\\ude00":1}',
        '{"\U0001f600":1}',
        "\ufeff1",
        "",
        "tru",
        "'a'",
        "[" * (MOST_DEPTH + 2) + "]" * (MOST_DEPTH + 2),
        "[" * 60_000,
        '"' + "a" * MOST_BYTES + '"',
    ],
)
def test_other_texts_of_the_same_value_are_refused(text: str) -> None:
    with pytest.raises(NotCanonical):
        read_canonical(text.encode())


def test_text_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(NotCanonical):
        read_canonical(b'"\xff"')


class _Text(str):
    """Text of a kind of its own could write itself in another way."""


@pytest.mark.parametrize(
    "value",
    [1.0, float("nan"), b"a", (1,), {1: 2}, {"a": {2}}, _Text("a"), 2**53, "\ud800", "a\0", {"\0": 1}, object()],
)
def test_what_has_no_form_is_refused(value: Any) -> None:
    with pytest.raises(NotCanonical):
        canonical(value)


def test_nesting_and_size_have_limits_that_are_reached() -> None:
    deep: Any = 1
    for _ in range(MOST_DEPTH):
        deep = [deep]
    assert read_canonical(canonical(deep)) == deep
    with pytest.raises(NotCanonical):
        canonical([deep])
    assert len(canonical("a" * (MOST_BYTES - 2))) == MOST_BYTES
    with pytest.raises(NotCanonical):
        canonical("a" * (MOST_BYTES - 1))
