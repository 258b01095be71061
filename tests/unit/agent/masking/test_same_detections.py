"""The proof: a clear and a masked copy of the same data have the same detections, entities, incidents and rollups.

Rules are the starter pack, all public rules of the evaluation data and a correlation by source address; on the masked
side their literals are tokens. What is compared is everything but the names themselves: the rule and the place of the
record, who the entities are once the clear ones are masked, which events make one incident, what is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any
from uuid import UUID

import orjson
import pytest

from actors.rule_masking import RecordMasks, forms_of
from agent.masking import Masker, MaskingKey
from detect.batch import Batch, BatchOutput
from detect.record import Entity, TenantId
from detect.sigma import RuleMatcher, RuleSet, load_rule_set, starter_pack
from detect.sigma.compiled import CompiledMatcher
from detect.sigma.other_forms import with_forms
from detect.tenant import TenantDetector
from models.ewma import EwmaModel
from tests.evaluation_data import reader

SECOND = 10**9
BASE = 1_700_000_000
BATCH = 500
KEY = MaskingKey(bytes(range(32)))

GUESSING = """
title: SSH password failed
id: 2f3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0b01
status: stable
level: low
logsource: {product: linux, service: sshd}
detection:
  words: ["Failed password"]
  condition: words
---
title: SSH password guessing by one address
id: 2f3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0b02
status: stable
level: medium
correlation:
  type: event_count
  rules: [2f3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0b01]
  group-by: [SourceIp]
  timespan: 5m
  condition: {gte: 5}
tags: [attack.credential-access, attack.t1110.001]
---
title: One address guesses many names
id: 2f3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0b03
status: stable
level: medium
correlation:
  type: value_count
  rules: [2f3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0b01]
  group-by: [SourceIp]
  timespan: 10m
  condition: {field: user, gte: 4}
tags: [attack.credential-access, attack.t1110.003]
"""


@dataclass(frozen=True)
class Side:
    """One way to judge: a rule set and a matcher that is compiled once."""

    rules: RuleSet
    matcher: RuleMatcher

    def run(self, payloads: Iterable[tuple[bytes, int]]) -> list[BatchOutput]:
        detector = TenantDetector(
            TenantId(UUID(int=7)), lambda _: self.rules, lambda: EwmaModel(probation=3), matcher=lambda _: self.matcher
        )
        control = orjson.dumps({"type": "rules", "digest": self.rules.digest})
        outputs = [detector.observe(Batch(1, 0, "control", control))]
        for seq, (payload, time_ns) in enumerate(payloads, 2):
            outputs.append(detector.observe(Batch(seq, time_ns, "otlp_json", payload)))
        return outputs


@cache
def sides() -> tuple[Side, Side]:
    own = [(f"starter/{path}", text) for path, text in starter_pack()]
    clear = load_rule_set([*own, ("guessing.yml", GUESSING), *reader().sigma_rules()])
    forms = forms_of(clear, RecordMasks((KEY,), False, "test"))
    changed, lost = [form for form in forms if form.forms], [form for form in forms if form.lost]
    assert len(changed) > 100, "the public rules name addresses and people, or the literals were not looked at"
    assert len(lost) <= 5, lost
    masked = with_forms(clear, forms)
    return tuple(Side(rules, CompiledMatcher(rules.rules)) for rules in (clear, masked))  # type: ignore[return-value]


def bodies(name: str) -> Iterator[Any]:
    data = reader()
    match name:
        case "sigma_regression" | "evtx_attack":
            return (event for case in getattr(data, name)() for event in case["events"])
        case "mordor":
            labels = sorted(data.mordor(), key=lambda label: str(label["dataset"]))
            return (event.get("_raw", event) for label in labels for event in islice(label["events"], 60))
        case "hostile_web" | "access_log":
            return (entry["line"] for entry in getattr(data, name)())
        case _:
            return (entry["line"] for entry in data.loghub(name))


def payloads(name: str) -> Iterator[tuple[bytes, int]]:
    """OTLP requests as a collector makes them: events as JSON texts, lines as they are, one a second."""
    found, second = bodies(name), BASE
    resource = {"attributes": [{"key": "host.name", "value": {"stringValue": "web-1"}}]}
    while chunk := list(islice(found, BATCH)):
        records = []
        for body in chunk:
            second += 1
            text = body if isinstance(body, str) else orjson.dumps(body).decode()
            records.append({"timeUnixNano": str(second * SECOND), "body": {"stringValue": text}})
        scope_logs = [{"logRecords": records}]
        yield orjson.dumps({"resourceLogs": [{"resource": resource, "scopeLogs": scope_logs}]}), second * SECOND


def who(entity: Entity, masker: Masker | None) -> tuple[str, str, str]:
    """An entity as it must be in the masked copy."""
    value = entity.value
    if masker is not None:
        # A name alone by its own field, an address or URL by its form; Windows accounts are compared without case.
        value = masker.values.text("user" if entity.kind == "user" and ":" not in value else "", value, [])
    return entity.kind, value.lower(), entity.role


def events(outputs: list[BatchOutput], masker: Masker | None) -> Counter[Any]:
    return Counter(
        (
            *(event.rule_id, event.cause, event.severity, event.activity, event.outcome, event.time_ns, event.end_ns),
            frozenset(who(entity, masker) for entity in event.entities),
        )
        for output in outputs
        for event in output.events
    )


def incidents(outputs: list[BatchOutput], masker: Masker | None) -> Counter[Any]:
    names = {event.id: (event.rule_id, event.cause) for output in outputs for event in output.events}
    members: dict[UUID, set[Any]] = {}
    entities: dict[UUID, frozenset[Any]] = {}
    for output in outputs:
        for change in output.incidents:
            members.setdefault(change.id, set()).update(names[member.event_id] for member in change.added)
            entities[change.id] = frozenset(who(entity, masker) for entity in change.entities)
    return Counter((frozenset(found), entities[one]) for one, found in members.items())


ESTIMATED = ("distinct_", "new_")
"""Features that sketches count once values are many: equal up to the sketches' error (standard error 3.3 %)."""


def rollups(outputs: list[BatchOutput], masker: Masker | None) -> dict[Any, dict[str, float]]:
    return {
        (one.span, one.start_ns, who(Entity(one.entity_kind, one.entity), masker)): one.features
        for output in outputs
        for one in output.rollups
        if one.entity_kind in ("ip", "user", "host", "process")
    }


def assert_same_counts(clear: dict[Any, dict[str, float]], masked: dict[Any, dict[str, float]]) -> None:
    assert clear.keys() == masked.keys()
    for window, features in clear.items():
        theirs = masked[window]
        assert features.keys() == theirs.keys()
        for name, value in features.items():
            if name.startswith(ESTIMATED):
                assert theirs[name] == pytest.approx(value, rel=0.15, abs=2), (window, name)
            else:
                assert theirs[name] == value, (window, name)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "least_events"),
    [("OpenSSH", 60), ("Linux", 50), ("access_log", 0), ("hostile_web", 2000), ("sigma_regression", 100),
     ("evtx_attack", 500), ("mordor", 20)],
)  # fmt: skip
def test_a_masked_copy_has_the_same_detections(name: str, least_events: int) -> None:
    clear_side, masked_side = sides()
    masker = Masker(KEY)
    clear = list(payloads(name))
    masked = [(masker.transform(payload, "otlp_json"), time_ns) for payload, time_ns in clear]
    assert masker.tally.records_failed == 0
    assert sum(masker.tally.rules.values()) > 0
    found, found_masked = clear_side.run(clear), masked_side.run(masked)
    assert events(found, masker) == events(found_masked, None)
    assert incidents(found, masker) == incidents(found_masked, None)
    assert_same_counts(rollups(found, masker), rollups(found_masked, None))
    assert sum(events(found, None).values()) >= least_events


@pytest.mark.data
@pytest.mark.parametrize("name", ["OpenSSH", "Linux", "access_log", "hostile_web"])
def test_nobody_that_the_server_knows_by_name_stands_in_the_masked_copy(name: str) -> None:
    """Judged by the server's own reading of the clear copy: every person and address it finds there."""
    clear_side, _ = sides()
    masker = Masker(KEY)
    clear = list(payloads(name))
    people = {
        entity.value
        for output in clear_side.run(clear)
        for record in output.records
        for entity in record.entities
        if entity.kind in ("ip", "user", "email") and who(entity, masker)[1] != entity.value.lower()
    }
    assert people
    copy = b"".join(masker.transform(payload, "otlp_json") for payload, _ in clear).decode()
    # A name of three letters stands in other words, and an address's first digits in other addresses.
    assert [name for name in people if len(name) > 3 and f" {name} " in copy.replace('"', " ").replace("\\", " ")] == []
