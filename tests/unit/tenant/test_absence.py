"""What did not happen is told when time has passed, even to a tenant that has fallen silent, and only once."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from detect.record import TenantId
from detect.sigma import load_rule_set
from detect.tenant import TenantDetector
from models.ewma import EwmaModel
from tests.unit.tenant.conftest import FAILED_LOGIN_RULE, Journal

CRON = """
title: Cron table replaced
id: 2f3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0a03
logsource: {product: linux}
detection: {words: [REPLACE], condition: words}
"""
UNEXPLAINED = """
title: Cron table replaced by nobody who was seen
id: 2f3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0a04
level: high
correlation:
  type: temporal
  group-by: [host]
  timespan: 10m
  condition: 2f3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0a03 and not 2f3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0a01
"""
RULES = load_rule_set([(f"{n}.yml", text) for n, text in enumerate((FAILED_LOGIN_RULE, CRON, UNEXPLAINED))])


def detector() -> TenantDetector:
    return TenantDetector(TenantId(UUID(int=1)), {RULES.digest: RULES}.__getitem__, lambda: EwmaModel(probation=3))


def test_a_tick_row_closes_the_window_of_a_silent_tenant_and_the_cause_is_a_stored_record(
    journal: Journal, cron_line: str
) -> None:
    watched = detector()
    watched.observe(journal.control(type="rules", digest=RULES.digest))
    first = watched.observe(journal.lines([(10, cron_line)]))
    assert first.events == () and first.open_windows
    assert watched.observe(journal.control(received=899, type="tick")).events == ()
    told = watched.observe(journal.control(received=3 * 3600, type="tick"))
    (event,) = told.events
    assert event.title == "Cron table replaced by nobody who was seen"
    assert str(event.cause) == "2-0" == str(event.evidence[0].ref)
    assert event.matched["absent"] == ["2f3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0a01"]
    assert len(told.incidents) == 1
    assert watched.observe(journal.control(received=6 * 3600, type="tick")).events == ()


def test_a_late_record_within_the_lateness_still_counts(
    journal: Journal, cron_line: str, failed: Callable[..., str]
) -> None:
    watched = detector()
    watched.observe(journal.control(type="rules", digest=RULES.digest))
    watched.observe(journal.lines([(10, cron_line), (800, "Nov 14 22:13:20 web-1 sshd[1]: a line of no rule")]))
    watched.observe(journal.lines([(560, failed(1))]))
    events = watched.observe(journal.control(received=6 * 3600, type="tick")).events
    assert [event.rule_id for event in events] == []


def test_a_window_yet_to_close_survives_a_restart(journal: Journal, cron_line: str) -> None:
    through, resumed = detector(), detector()
    through.observe(journal.control(type="rules", digest=RULES.digest))
    through.observe(journal.lines([(10, cron_line)]))
    resumed.restore(through.snapshot())
    tick = journal.control(received=3 * 3600, type="tick")
    assert resumed.observe(tick).events == through.observe(tick).events != ()
    assert resumed.snapshot() == through.snapshot()
