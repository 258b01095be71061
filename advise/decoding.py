"""The schema under which a model decodes: small, and made anew for each incident from its own ids.

Only keywords that decoding engines really enforce are used. xgrammar compiles `uniqueItems`, `contains`, `allOf`,
`not`, `if`/`then` and `pattern` beside `maxLength` without a word and then ignores them, so none of these occurs here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

NONE = "none"
SUMMARY_MIN, SUMMARY_MAX = 40, 280
CONFIRMED_MAX = 4
EVIDENCE_MAX = 3
ACTIONS_MAX = 3


def decoding_schema(techniques: Sequence[str], evidence: Sequence[str], actions: Sequence[str]) -> dict[str, Any]:
    """The answer's shape. `evidence` must not be empty; without `actions` the answer has no member of that name."""
    refs = {"type": "array", "minItems": 1, "maxItems": EVIDENCE_MAX, "items": _choice(evidence)}
    properties: dict[str, Any] = {
        "techniques": {
            "type": "array",
            "minItems": 1,
            "maxItems": CONFIRMED_MAX,
            "items": _object({"id": _choice([*techniques, NONE]), "evidence": refs}),
        },
        "summary": _object(
            {"text": {"type": "string", "minLength": SUMMARY_MIN, "maxLength": SUMMARY_MAX}, "evidence": refs}
        ),
    }
    if actions:
        properties["actions"] = {
            "type": "array",
            "minItems": 0,
            "maxItems": ACTIONS_MAX,
            "items": _object({"id": _choice(actions), "evidence": _choice(evidence)}),
        }
    return _object(properties)


def longest_answer(techniques: Sequence[str], evidence: Sequence[str], actions: Sequence[str]) -> str:
    """The longest compact answer that the schema allows, with a plain summary: what max_tokens must hold."""
    technique, record = max([*techniques, NONE], key=len), max(evidence, key=len)
    refs = [record] * EVIDENCE_MAX
    answer: dict[str, Any] = {
        "techniques": [{"id": technique, "evidence": refs}] * CONFIRMED_MAX,
        "summary": {"text": "words and " * (SUMMARY_MAX // 10), "evidence": refs},
    }
    if actions:
        answer["actions"] = [{"id": max(actions, key=len), "evidence": record}] * ACTIONS_MAX
    return orjson.dumps(answer).decode()


def _choice(values: Sequence[str]) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }
