"""Records and rules for the tests of the Sigma engine, built by hand where the normaliser is not what is tested."""

from __future__ import annotations

import textwrap
from typing import Any
from uuid import UUID

from detect.record import Entity, FieldValue, LogRecord, Logsource, NormalizedRecord, RecordRef, TenantId
from detect.sigma import RuleSet, load_rule_set

TENANT = TenantId(UUID("7d9c5f1e-6a3b-4a52-9d63-0f2f5f0b8f10"))
SECOND = 1_000_000_000
TEST_SOURCE = Logsource("test")
T0 = 1_795_338_000 * SECOND
"""2026-11-22 09:00:00 UTC."""


def record(
    fields: dict[str, FieldValue] | None = None,
    *,
    message: str = "",
    logsource: Logsource = TEST_SOURCE,
    at: float = 0.0,
    position: int = 0,
    entities: tuple[Entity, ...] = (),
    attributes: dict[str, Any] | None = None,
) -> NormalizedRecord:
    """A normalised record `at` seconds after T0."""
    time_ns = T0 + round(at * SECOND)
    stored = LogRecord(
        ref=RecordRef(1, position),
        time_ns=time_ns,
        stated_ns=time_ns,
        observed_ns=time_ns,
        received_ns=time_ns,
        severity_number=9,
        severity_text="INFO",
        body=message,
        attributes=attributes or {},
        resource={},
    )
    return NormalizedRecord(stored, logsource, fields or {}, entities, message)


def rule_text(detection: str, *, title: str = "A rule", extra: str = "", logsource: str = "{product: test}") -> str:
    """A rule document around a `detection` block."""
    block = textwrap.indent(textwrap.dedent(detection).strip("\n"), "  ")
    return f"title: {title}\nlogsource: {logsource}\n{textwrap.dedent(extra)}\ndetection:\n{block}\n"


def loaded(*texts: str) -> RuleSet:
    """The rule set of these sources, which must all load."""
    rules = load_rule_set([(f"rule{number}.yml", text) for number, text in enumerate(texts)])
    assert rules.errors == ()
    return rules
