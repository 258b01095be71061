"""Chains of operators (`pkg/stanza` of otelcol-contrib) that mask a record before it is parsed, or in every field.

A parser copies what it reads: a secret that is masked in the body afterwards still stands in an attribute. So either
the masks come first, or what a receiver has parsed by itself is thrown away and the masked text alone goes on, which
the server reads anyway.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from agent.collector.expansion import literal
from agent.collector.profile import ContainerSource, Mask, SyslogSource

MASK_ID: Final = "mask-"
"""Begins the id of every operator that masks."""

SYSLOG_FIELDS: Final = ("attributes.facility", "attributes.priority")
"""Numbers: what of a parsed syslog line may stay beside the masked text."""

_JOURNAL_TEXTS: Final = ("MESSAGE", "SYSLOG_IDENTIFIER")
_JOURNAL_FIELDS: Final = (
    *_JOURNAL_TEXTS,
    *("SYSLOG_FACILITY", "PRIORITY", "_COMM", "_EXE", "_PID", "_UID", "_GID", "_HOSTNAME", "_SYSTEMD_UNIT"),
    *("_TRANSPORT", "_BOOT_ID", "_MACHINE_ID"),
)
"""Besides the texts only what the kernel and systemd state; a command line (_CMDLINE) holds passwords."""


def masking(
    masks: Sequence[Mask], *, field: str = "body", suffix: str = "", condition: str = ""
) -> list[dict[str, Any]]:
    """One operator a mask, for a field that holds text where the condition is true."""
    when = {"if": condition} if condition else {}
    return [
        {
            "type": "regex_replace",
            "id": f"{MASK_ID}{mask.name}{suffix}",
            "field": field,
            "regex": literal(mask.pattern),
            "replace_with": literal(mask.replacement),
            **when,
        }
        for mask in masks
    ]


def container_operators(source: ContainerSource, masks: Sequence[Mask]) -> list[dict[str, Any]]:
    """Masks, takes the line out of its wrapping, masks again what was in two parts before, joins entries.

    Lines of more than 16 KiB, which container engines cut, are whole again except those of Docker.
    """
    parser: dict[str, Any] = {"type": "container", "id": "container"}
    if source.format:
        parser["format"] = source.format
    # Docker writes the end of a line into the line.
    bare = {"type": "regex_replace", "id": "line-end", "field": "body", "regex": r"\r?\n\z"}
    chain = [*masking(masks), parser, bare, *masking(masks, suffix="-whole")]
    if source.multiline_start:
        chain.append(
            {
                "type": "recombine",
                "id": "entries",
                "combine_field": "body",
                "is_first_entry": f"body matches {_quoted(source.multiline_start)}",
                "source_identifier": 'attributes["log.file.path"]',
            }
        )
        chain += masking(masks, suffix="-entry")
    return chain


def syslog_operators(source: SyslogSource, masks: Sequence[Mask]) -> list[dict[str, Any]]:
    """For a receiver that has parsed already: the text stays, masked, and of the parts only numbers."""
    chain: list[dict[str, Any]] = []
    if source.octet_counting:
        # The receiver leaves the count in front of the line.
        chain.append({"type": "regex_replace", "id": "octets", "field": "body", "regex": r"^[1-9][0-9]*\s"})
    if masks:
        chain += masking(masks)
        chain.append({"type": "retain", "id": "numbers", "fields": list(SYSLOG_FIELDS)})
    return chain


def journal_operators(masks: Sequence[Mask]) -> list[dict[str, Any]]:
    """Keeps the fields that are read, and masks those that a program may fill with any text."""
    if not masks:
        return []
    chain: list[dict[str, Any]] = [
        {"type": "retain", "id": "fields", "fields": [f"body.{name}" for name in _JOURNAL_FIELDS]}
    ]
    for name in _JOURNAL_TEXTS:
        field = f"body.{name}"
        # A field that was given twice is a list, one that is no text a list of bytes.
        chain.append(
            {
                "type": "add",
                "id": f"text-{name}",
                "field": field,
                "value": f"EXPR(toJSON({field}))",
                "if": f'type({field}) not in ["string", "nil"]',
            }
        )
        chain += masking(masks, field=field, suffix=f"-{name}", condition=f'type({field}) == "string"')
    return chain


def _quoted(pattern: str) -> str:
    """A pattern as text in the language of conditions."""
    return literal(json.dumps(pattern, ensure_ascii=False))
