"""The detector of one tenant: what an event holds, what a faulty rule costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from uuid import UUID, uuid5

from detect.event import event_id
from detect.record import Entity, NormalizedRecord, RecordRef, TenantId, record_digest
from detect.sigma import RuleFault, RuleMatch, SigmaDetector, SigmaRule
from tests.unit.sigma.records import TENANT, loaded, record, rule_text

RULE = rule_text(
    "a: {f|contains: evil}\ncondition: a",
    title="Evil",
    extra="""
    id: 5f1f0ad4-6b9f-4f7e-8a55-0b0f4a8f7c01
    description: Something evil.
    level: critical
    author: A. Person
    license: DRL-1.1
    tags: [attack.execution, attack.t1059.004]
    """,
)


def test_the_id_of_an_event_is_a_uuid5_of_what_caused_it() -> None:
    namespace = UUID("6f1a7f0e-53a0-5d2e-9f6b-2f6a1c0e7d11")
    for rule_id, extra in (("evil", ""), ("évil", "web01"), ("evil", "a\udc80b")):
        name = "\x1f".join((str(TENANT), "sigma", rule_id, "7-3", extra))
        storable = name.encode("utf-8", "backslashreplace").decode()
        assert event_id(TENANT, "sigma", rule_id, RecordRef(7, 3), extra) == uuid5(namespace, storable)


def test_an_event_explains_itself() -> None:
    rules = loaded(RULE)
    host = (Entity("host", "web01"),)
    seen = record({"f": "an evil thing"}, message="a line", position=4, entities=host, attributes={"mark": "x-1"})
    (event,) = SigmaDetector(TENANT, rules).observe(seen)
    assert event.id == event_id(TENANT, "sigma", "5f1f0ad4-6b9f-4f7e-8a55-0b0f4a8f7c01", RecordRef(1, 4))
    assert (event.kind, event.title, event.description) == ("rule", "Evil", "Something evil.")
    assert (event.severity, event.score) == ("critical", 90.0)
    assert (event.techniques, event.tactics) == (("T1059.004",), ("execution",))
    assert event.matched == {"f": "an evil thing", "rule_author": "A. Person", "rule_license": "DRL-1.1"}
    assert event.entities == host and event.attributes == {"mark": "x-1"}
    assert event.rule_version == rules.rules[0].version
    assert event.time_ns == event.end_ns == seen.record.time_ns
    (evidence,) = event.evidence
    assert (evidence.ref, evidence.digest, evidence.message) == (seen.record.ref, record_digest(seen.record), "a line")


def test_the_same_record_gives_the_same_event_and_another_tenant_another_id() -> None:
    rules, seen = loaded(RULE), record({"f": "evil"})
    (event,) = SigmaDetector(TENANT, rules).observe(seen)
    assert SigmaDetector(TENANT, rules).observe(seen) == [event]
    (other,) = SigmaDetector(TenantId(UUID(int=5)), rules).observe(seen)
    assert other.id != event.id


def test_a_long_message_is_capped_in_evidence() -> None:
    (event,) = SigmaDetector(TENANT, loaded(RULE)).observe(record({"f": "evil"}, message="x" * 5000))
    assert len(event.evidence[0].message) == 1000


def test_a_record_with_text_that_utf8_cannot_hold_still_gives_an_event() -> None:
    (event,) = SigmaDetector(TENANT, loaded(RULE)).observe(record({"f": "evil \ud800\0"}, message="\udfff"))
    assert len(event.evidence[0].digest) == 64


class RaisingMatcher:
    """Stands for a matcher whose rule `bad` raises on every record."""

    def __init__(self, rules: Sequence[SigmaRule]) -> None:
        self._rules = rules

    def match(self, record: NormalizedRecord) -> tuple[RuleMatch, ...]:
        return tuple(RuleMatch(rule, {}) for rule in self._rules)

    def take_faults(self) -> list[RuleFault]:
        return [RuleFault("bad", "ValueError: no")]


def test_faults_are_named_and_counted_once_for_each_rule() -> None:
    detector = SigmaDetector(TENANT, loaded(RULE), RaisingMatcher)
    assert all(len(detector.observe(record(position=position))) == 1 for position in range(3))
    (poison,) = detector.take_faults()
    assert (poison.seq, poison.position, poison.stage, poison.subject) == (1, 0, "sigma", "bad")
    assert poison.error == "ValueError: no (on 3 records)"
    assert detector.take_faults() == []


def test_the_snapshot_is_json() -> None:
    detector = SigmaDetector(TENANT, loaded(RULE))
    detector.tick(5)
    assert json.loads(json.dumps(detector.snapshot())) == {"version": 1, "watermark_ns": 5, "correlations": {}}
