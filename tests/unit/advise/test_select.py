"""Few records stand for many: every rule, every tactic, the first and the last, then the rare ones."""

from __future__ import annotations

from typing import Any

from advise.brief import brief_from_detail
from advise.select import EVIDENCE_LIMIT, select_evidence
from tests.unit.advise.incidents import event, incident_of, record, ssh_incident


def noisy_incident() -> dict[str, Any]:
    """Three hundred failures, and one record of each of three other rules in the middle of them."""
    events = [
        event(
            "Failures", "low", f"11:{n // 60:02}:{n % 60:02}", [record(n, 0, f"11:{n // 60:02}:{n % 60:02}", f"no {n}")]
        )
        for n in range(300)
    ]
    for position, title in ((50, "Sudo"), (150, "Cron"), (250, "Web shell")):
        time = events[position]["time"][11:19]
        events.insert(position, event(title, "high", time, [record(900 + position, 0, time, title)]))
    return incident_of(events, "high")


def test_every_rule_and_both_ends_are_quoted() -> None:
    brief = brief_from_detail(noisy_incident())
    selection = select_evidence(brief)
    assert len(selection.items) == EVIDENCE_LIMIT
    assert {"950-0", "1050-0", "1150-0", "0-0", "299-0"} <= selection.ids
    assert list(selection.items) == sorted(selection.items, key=lambda item: item.time or 0)


def test_what_is_left_out_is_counted() -> None:
    brief = brief_from_detail(noisy_incident())
    selection = select_evidence(brief)
    assert selection.omitted_records == 303 - EVIDENCE_LIMIT
    assert selection.omitted_by_rule == {"Failures": 300 - (EVIDENCE_LIMIT - 3)}


def test_the_most_telling_records_come_first_by_weight() -> None:
    selection = select_evidence(brief_from_detail(noisy_incident()))
    assert set(selection.by_weight[:3]) == {"950-0", "1050-0", "1150-0"}


def test_the_order_of_the_input_changes_nothing() -> None:
    incident = ssh_incident()
    turned = incident | {"timeline": incident["timeline"][::-1]}
    assert select_evidence(brief_from_detail(incident)) == select_evidence(brief_from_detail(turned))
