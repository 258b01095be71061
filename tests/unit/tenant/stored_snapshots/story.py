"""One fixed journal, told in two halves: a snapshot is taken between them, and what the second half says is kept.

`python -m tests.unit.tenant.stored_snapshots.make` writes `format-N.snapshot` and `format-N.said.json` with the code of
its day. The files of a format are made once, before the format changes, and never again: they are what installations
of that day have in their databases. `format-1.*` were made by version 0.1.0, the first with stored snapshots.
"""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID

import msgspec
import orjson

from detect.batch import Batch, BatchOutput
from detect.record import TenantId
from detect.sigma import RuleSet, load_rule_set
from detect.tenant import TenantDetector
from models.ewma import EwmaModel

TENANT = TenantId(UUID(int=77))
SECOND = 10**9
BASE = 472_222 * 3600 * SECOND
MIDDLE = 21

_RULES = (
    """
title: Failed SSH login
id: 7a3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0b01
status: stable
level: low
logsource: {product: linux, service: sshd}
detection:
  words: ["Failed password"]
  condition: words
tags: [attack.credential-access, attack.t1110]
""",
    """
title: SSH password guessing
id: 7a3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0b02
status: stable
level: medium
correlation:
  type: event_count
  rules: [7a3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0b01]
  group-by: [SourceIp]
  timespan: 10m
  condition: {gte: 12}
  generate: true
tags: [attack.credential-access, attack.t1110.001]
""",
    """
title: Root shell by sudo
id: 7a3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0b03
status: stable
level: high
logsource: {product: linux}
detection:
  words: ["COMMAND=/bin/bash"]
  condition: words
tags: [attack.privilege-escalation, attack.t1548.003]
""",
)


def rules() -> RuleSet:
    """The rule set of the story."""
    loaded = load_rule_set([(f"rules/{number}.yml", text) for number, text in enumerate(_RULES)])
    assert loaded.errors == ()
    return loaded


def detector() -> TenantDetector:
    """A detector of the story's tenant; its model learns for three windows."""
    known = rules()
    return TenantDetector(TENANT, {known.digest: known}.__getitem__, lambda: EwmaModel(probation=3))


def journal() -> list[Batch]:
    """Forty minutes: quiet ones, bursts of guessing that straddle the middle, a root shell, a late record, a tick."""
    batches = [_control(1, 0, type="rules", digest=rules().digest)]
    for minute in range(1, 40):
        lines = [(minute * 60 + step * 13, _login(minute, step)) for step in range(4)]
        if minute % 4 == 0:
            lines += [(minute * 60 + step, _failed(minute, step)) for step in range(5)]
        if minute in (19, 25):
            lines.append((minute * 60 + 30, _shell(minute)))
        if minute == 23:
            lines.append((60.0, _failed(1, 77)))
        batches.append(_lines(minute + 1, lines))
    batches.append(_control(41, 3 * 3600, type="tick"))
    return batches


def said(output: BatchOutput) -> dict[str, Any]:
    """What a batch changed outside, as plain JSON values: of records their marks, of rollups a digest."""
    rollups = [[item.span, item.entity_kind, item.entity, item.start_ns, item.features] for item in output.rollups]
    plain: dict[str, Any] = msgspec.to_builtins(
        {"seq": output.seq, "events": output.events, "incidents": output.incidents}
    )
    plain["rollups"] = hashlib.sha256(orjson.dumps(rollups, option=orjson.OPT_SORT_KEYS)).hexdigest()
    plain["marks"] = [item.record.time_mark for item in output.records]
    decoded: dict[str, Any] = orjson.loads(orjson.dumps(plain))
    return decoded


def _login(minute: int, step: int) -> str:
    user = ("anna", "bert", "carla")[(minute + step) % 3]
    return (
        f"Nov 14 22:{minute:02d}:{step * 13:02d} web-1 sshd[{500 + minute}]: "
        f"Accepted publickey for {user} from 198.51.100.{10 + step} port {50000 + minute} ssh2"
    )


def _failed(minute: int, step: int) -> str:
    return (
        f"Nov 14 22:{minute:02d}:{step % 60:02d} web-1 sshd[{900 + step}]: "
        f"Failed password for invalid user admin from 203.0.113.7 port {40000 + step} ssh2"
    )


def _shell(minute: int) -> str:
    return (
        f"Nov 14 22:{minute:02d}:30 web-1 sudo:     bert : TTY=pts/0 ; PWD=/home/bert ; USER=root ; COMMAND=/bin/bash"
    )


def _lines(seq: int, lines: list[tuple[float, str]]) -> Batch:
    records = [{"timeUnixNano": str(BASE + int(at * SECOND)), "body": {"stringValue": line}} for at, line in lines]
    resource = {"attributes": [{"key": "host.name", "value": {"stringValue": "web-1"}}]}
    request = {"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": records}]}]}
    latest = max(at for at, _ in lines)
    return Batch(seq, BASE + int(latest * SECOND), "otlp_json", orjson.dumps(request))


def _control(seq: int, second: float, **control: Any) -> Batch:
    return Batch(seq, BASE + int(second * SECOND), "control", orjson.dumps(control))
