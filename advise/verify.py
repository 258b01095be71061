"""Checks an advisory against the records it cites, without any model and without trusting who wrote it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from advise.advisory import InvalidAdvisory, validate
from advise.sanitize import clean, defang
from advise.wording import stands_in


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """What is stored under an evidence id: the bytes that were hashed (canonical JSON, or the caller's message in
    UTF-8) and the one line a person reads."""

    content: bytes
    message: str


class Failure(NamedTuple):
    """One thing in an advisory that its records do not bear out. `where` is a JSON path."""

    where: str
    reason: str


Lookup = Callable[[str], StoredRecord | None]
_PARTS = ("summary", "timeline", "techniques", "next_checks", "actions")


def verify(advisory: dict[str, Any], lookup: Lookup) -> tuple[Failure, ...]:
    """Every failure found, none when each citation resolves, each digest fits, each quotation stands in its record.

    `lookup` gives the record behind an evidence id, None when there is none.
    """
    try:
        validate(advisory)
    except InvalidAdvisory as error:
        return tuple(Failure("$", reason) for reason in error.errors)
    records = {item["id"]: lookup(item["id"]) for item in advisory["evidence"]}
    failures = [
        failure
        for position, item in enumerate(advisory["evidence"])
        for failure in _evidence_failures(f"$.evidence[{position}]", item, records[item["id"]])
    ]
    for part in _PARTS:
        for position, statement in enumerate(advisory[part]):
            failures += _quote_failures(f"$.{part}[{position}]", statement, records)
    return tuple(failures)


def _evidence_failures(where: str, item: Mapping[str, Any], record: StoredRecord | None) -> list[Failure]:
    if record is None:
        return [Failure(where, f"{item['id']} is not stored")]
    failures = []
    if hashlib.sha256(record.content).hexdigest() != item["digest"]:
        failures.append(Failure(where, f"the digest of {item['id']} is not that of the stored record"))
    quoted = clean(record.message)
    if (item["message"], item["tainted"]) != (defang(quoted.text), quoted.tainted):
        failures.append(Failure(where, f"the message of {item['id']} is not that of the stored record"))
    return failures


def _quote_failures(
    where: str, statement: Mapping[str, Any], records: Mapping[str, StoredRecord | None]
) -> list[Failure]:
    cited = [record for key in statement["evidence"] if (record := records.get(key)) is not None]
    texts = [text for record in cited for text in (record.message, _strings(record.content))]
    return [
        Failure(where, f"{value!r} is quoted but stands in no cited record")
        for value in statement.get("quotes", ())
        if value not in statement["text"] or not any(stands_in(value, text) for text in texts)
    ]


def _strings(content: bytes) -> str:
    """All texts of a JSON document with their escapes undone; the content itself when it is no JSON."""
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return content.decode("utf-8", "replace")
    found: list[str] = []
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        else:
            found.append(str(item))
    return "\n".join(found)
