"""JSON bodies: values are masked by their keys, and every other byte stays as its sender wrote it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.masking import Masker, MaskingKey
from agent.masking.json_text import Unmaskable

Masked = Callable[..., str]
MASKER = Masker(MaskingKey(b"k" * 32))

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12) | st.sampled_from(["alice", "203.0.113.7", "a@b.example", "CORP\\bob", "4111111111111111"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["user", "password", "ip", "version", "a.b", "x"]) | st.text(max_size=4), inner),
    max_leaves=12,
)  # fmt: skip
DOCUMENTS = st.dictionaries(st.sampled_from(["user", "password", "message", "n"]), VALUES, min_size=1)


def texts(document: Any) -> list[str]:
    """Ways to write a document: as orjson does, with spaces, with escapes, with line ends."""
    return [
        orjson.dumps(document).decode(),
        json.dumps(document),
        json.dumps(document, indent=2),
        f" \t{json.dumps(document, separators=(' , ', ' :'))}\n",
    ]


@given(DOCUMENTS)
def test_however_a_document_is_written_the_same_values_are_masked(document: Any) -> None:
    quick, *others = (MASKER.values.text("", text, []) for text in texts(document))
    for other in others:
        assert orjson.loads(other) == orjson.loads(quick)


@given(DOCUMENTS)
def test_hits_are_the_same_however_it_is_written(document: Any) -> None:
    counts = []
    for text in texts(document):
        hits: list[str] = []
        MASKER.values.text("", text, hits)
        counts.append(sorted(hits))
    assert all(count == counts[0] for count in counts)


@given(DOCUMENTS)
def test_keys_and_shape_stay(document: Any) -> None:
    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shape(item) for key, item in value.items() if key != "password"}
        return [shape(item) for item in value] if isinstance(value, list) else None

    for text in texts(document):
        assert shape(orjson.loads(MASKER.values.text("", text, []))) == shape(document)


def test_bytes_that_hold_nothing_to_mask_are_not_touched(masked: Masked) -> None:
    text = '{ "a" : 1.50, "b":"x\\u0041\\/", "a": 12345678901234567890123, "user": "root", "n": null,"e":{} }'
    assert masked(text) == text


def test_only_the_value_changes(masked: Masked) -> None:
    text = '{ "a" : 1.50, "user" : "alice" , "s":"\\u00e9" }'
    token = masked("alice", "user")
    assert masked(text) == text.replace("alice", token)


def test_repeated_keys_are_all_masked(masked: Masked) -> None:
    token = masked("alice", "user")
    assert masked('{"user":"alice","user":"alice"}') == f'{{"user":"{token}","user":"{token}"}}'


def test_escapes_hide_nothing(masked: Masked) -> None:
    escaped = '{"user":"\\u0061lice","m":"from \\u0032\\u0030\\u0033.0.113.7"}'
    found = orjson.loads(masked(escaped))
    assert found == {"user": masked("alice", "user"), "m": f"from {masked('203.0.113.7')}"}


def test_documents_in_documents(masked: Masked) -> None:
    inner = json.dumps({"user": "alice"})
    for text in (orjson.dumps({"log": inner}).decode(), json.dumps({"log": inner}, indent=1)):
        assert orjson.loads(orjson.loads(masked(text))["log"]) == {"user": masked("alice", "user")}


def test_a_redacted_field_is_gone_whatever_it_holds(masked: Masked) -> None:
    document = {"password": {"old": "hunter1", "new": ["hunter2"]}, "secret": 12345, "x": {"api_key": ["k1", "k2"]}}
    for text in texts(document):
        found = masked(text)
        assert not any(secret in found for secret in ("hunter", "12345", "k1", "k2"))
        assert orjson.loads(found)["password"] == "[redacted:secrets]"


def test_numbers_stay_numbers_unless_they_are_cards(masked: Masked) -> None:
    document = {"user": 1000, "n": 1.5, "pan": 4111111111111111, "t": 1700000000000000000}
    for text in texts(document):
        assert orjson.loads(masked(text)) == document | {"pan": "[redacted:cards]"}


def test_paths_reach_into_maps(masked: Masked) -> None:
    found = orjson.loads(masked('{"actor":{"user":{"name":"alice"}},"product":{"name":"alice"}}'))
    assert found == {"actor": {"user": {"name": masked("alice", "user")}}, "product": {"name": "alice"}}


@pytest.mark.parametrize(
    "text", ['{"user":"alice"', '{"user":"alice"} trailing', '{"a":NaN,"user":"alice"}', "{alice}"]
)
def test_broken_documents_are_searched_as_text(text: str, masked: Masked) -> None:
    found = masked(text)
    assert ("alice" in found) == ("user" not in text)


def test_a_document_too_deep_to_judge_is_refused_not_kept(masked: Masked) -> None:
    with pytest.raises(Unmaskable, match="deeper"):
        masked('{"a":' * 70 + '"alice"' + "}" * 70)
    with pytest.raises(Unmaskable, match="deeper"):
        masked('{ "a":' * 70 + '"alice"' + "}" * 70)
