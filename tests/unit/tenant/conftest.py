"""A tenant detector with real rules, and a journal of real-world lines to feed it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
import pytest

from detect.batch import Batch, BatchOutput
from detect.record import TenantId
from detect.sigma import RuleSet, load_rule_set
from detect.tenant import DetectorSettings, TenantDetector
from models.ewma import EwmaModel

SECOND = 10**9
BASE = 472_222 * 3600 * SECOND

FAILED_LOGIN_RULE = """
title: Failed SSH login
id: 2f3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0a01
status: stable
level: low
logsource: {product: linux, service: sshd}
detection:
  words: ["Failed password"]
  condition: words
tags: [attack.credential-access, attack.t1110]
"""
GUESSING_RULE = """
title: SSH password guessing
id: 2f3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0a02
status: stable
level: medium
correlation:
  type: event_count
  rules: [2f3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0a01]
  group-by: [SourceIp]
  timespan: 5m
  condition: {gte: 5}
  generate: true
tags: [attack.credential-access, attack.t1110.001]
"""
CRON_RULE = """
title: Cron table replaced
id: 2f3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0a03
status: stable
level: high
logsource: {product: linux}
detection:
  words: ["REPLACE"]
  condition: words
tags: [attack.persistence, attack.t1053.003]
"""


def rule_set(*texts: str) -> RuleSet:
    loaded = load_rule_set([(f"rules/{number}.yml", text) for number, text in enumerate(texts)])
    assert loaded.errors == ()
    return loaded


@dataclass
class Journal:
    """Builds batches in seq order; a line is (seconds since BASE, text)."""

    seq: int = 0
    batches: list[Batch] = field(default_factory=list)

    def lines(self, lines: Sequence[tuple[float, str]], received: float | None = None) -> Batch:
        records: list[dict[str, Any]] = [
            {"timeUnixNano": str(BASE + int(second * SECOND)), "body": {"stringValue": text}} for second, text in lines
        ]
        latest = max((second for second, _ in lines), default=0)
        resource = {"attributes": [{"key": "host.name", "value": {"stringValue": "web-1"}}]}
        request = {"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": records}]}]}
        return self.raw("otlp_json", orjson.dumps(request), latest if received is None else received)

    def control(self, received: float = 0, **payload: Any) -> Batch:
        return self.raw("control", orjson.dumps(payload), received)

    def raw(self, kind: Any, payload: bytes, received: float = 0) -> Batch:
        self.seq += 1
        self.batches.append(Batch(self.seq, BASE + int(received * SECOND), kind, payload))
        return self.batches[-1]


@dataclass
class Bench:
    """Rule sets by digest and a factory of detectors that use them."""

    rules: dict[str, RuleSet]
    full: str
    small: str

    def detector(self, tenant: int = 1, settings: DetectorSettings | None = None, **more: Any) -> TenantDetector:
        return TenantDetector(
            TenantId(UUID(int=tenant)), self.rules.__getitem__, lambda: EwmaModel(probation=3), settings, **more
        )


@pytest.fixture(scope="session")
def bench() -> Bench:
    full, small = rule_set(FAILED_LOGIN_RULE, GUESSING_RULE, CRON_RULE), rule_set(CRON_RULE)
    return Bench({one.digest: one for one in (full, small)}, full.digest, small.digest)


@pytest.fixture
def journal() -> Journal:
    return Journal()


def failed_login(number: int, user: str = "admin", ip: str = "203.0.113.7") -> str:
    return (
        f"Nov 14 22:00:00 web-1 sshd[{1000 + number}]: Failed password for invalid user {user} from {ip} "
        f"port {40000 + number} ssh2"
    )


CRON_LINE = "Nov 14 22:00:00 web-1 crontab[2002]: (root) REPLACE (root)"


@pytest.fixture
def failed() -> Callable[..., str]:
    return failed_login


@pytest.fixture
def cron_line() -> str:
    return CRON_LINE


@pytest.fixture
def run() -> Callable[[TenantDetector, Journal], list[BatchOutput]]:
    return lambda detector, journal: [detector.observe(batch) for batch in journal.batches]
