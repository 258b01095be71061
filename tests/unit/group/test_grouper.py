"""Which events belong together, why, and since when: grouping as an analyst would do it, and always the same way."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.event import DetectionEvent, Severity, event_id
from detect.group import GroupingSettings, IncidentGrouper
from detect.incident import IncidentChange
from detect.record import Entity, RecordRef, TenantId

TENANT = TenantId(UUID(int=1))
SECOND = 10**9
HOUR = 3600 * SECOND
BASE = 472_222 * HOUR
ATTACKER, RIVAL = "203.0.113.7", "198.51.100.9"


def host(name: str) -> Entity:
    return Entity("host", name)


def user(name: str) -> Entity:
    return Entity("user", name, "target")


def ip(address: str) -> Entity:
    return Entity("ip", address, "source")


class Story:
    """Feeds events one after another, each caused by a record of its own."""

    def __init__(self, settings: GroupingSettings | None = None, tenant: TenantId = TENANT) -> None:
        self.tenant = tenant
        self.grouper = IncidentGrouper(tenant, settings)
        self.position = 0

    def event(
        self, second: float, rule: str, severity: Severity, *entities: Entity, stage: str = "", **more: Any
    ) -> DetectionEvent:
        self.position += 1
        time_ns = BASE + int(second * SECOND)
        cause = RecordRef(1, self.position)
        return DetectionEvent(
            id=event_id(self.tenant, "sigma", rule, cause),
            kind="rule",
            detector="sigma",
            rule_id=rule,
            rule_version="1",
            title=rule,
            description="",
            severity=severity,
            score={"informational": 5.0, "low": 20.0, "medium": 45.0, "high": 70.0, "critical": 90.0}[severity],
            time_ns=time_ns,
            end_ns=time_ns,
            cause=cause,
            entities=entities,
            techniques=more.pop("techniques", ()),
            tactics=(stage,) if stage else (),
            evidence=(),
            matched={},
            attributes={},
            outcome=more.pop("outcome", "unknown"),
        )

    def see(self, *args: Any, **more: Any) -> DetectionEvent:
        event = self.event(*args, **more)
        self.grouper.observe(event, 1)
        return event

    def changes(self, seq: int = 1) -> list[IncidentChange]:
        return self.grouper.take_changes(seq)


def test_an_intrusion_is_one_incident_with_a_reason_for_every_member() -> None:
    story = Story()
    story.see(0, "SSH password guessing", "medium", ip(ATTACKER), host("web-1"), stage="credential-access")
    story.see(40, "SSH login after guessing", "high", ip(ATTACKER), user("bob"), host("web-1"), stage="initial-access")
    story.see(95, "Sudo to root", "low", user("bob"), host("web-1"), stage="privilege-escalation")
    story.see(200, "New cron entry", "medium", host("web-1"), stage="lateral-movement", techniques=("T1053.003",))
    (incident,) = story.changes()
    assert incident.title == f"SSH login after guessing from {ATTACKER} on web-1"
    assert [member.reason for member in incident.added] == [
        f"opened the incident at 2023-11-14 22:00:00 UTC: medium severity 'SSH password guessing' on host web-1 "
        f"with address {ATTACKER}",
        f"same source address {ATTACKER} as 'SSH password guessing' 40 s before (event at 2023-11-14 22:00:40 UTC)",
        "same user bob on host web-1 as 'SSH login after guessing' 55 s before (event at 2023-11-14 22:01:35 UTC)",
        "same host web-1 as 'Sudo to root' 1 min 45 s before (event at 2023-11-14 22:03:20 UTC); "
        "next stage lateral-movement after credential-access",
    ]
    assert [member.position for member in incident.added] == [0, 1, 2, 3]
    assert incident.tactics == ("initial-access", "privilege-escalation", "credential-access", "lateral-movement")
    assert incident.techniques == ("T1053.003",)
    assert (incident.first_ns, incident.last_ns) == (BASE, BASE + 200 * SECOND)


def test_three_stages_in_order_raise_the_severity_one_step() -> None:
    story = Story()
    for second, stage in enumerate(["initial-access", "execution", "persistence"]):
        story.see(second, f"rule {stage}", "medium", host("web-1"), stage=stage)
    assert story.changes()[0].severity == "high"


def test_stages_against_the_order_and_many_tactics_of_one_rule_raise_nothing() -> None:
    story = Story()
    for second, stage in enumerate(["persistence", "execution", "initial-access"]):
        story.see(second, f"rule {stage}", "medium", host("web-1"), stage=stage)
    assert story.changes()[0].severity == "medium"


def test_attackers_of_the_same_host_are_kept_apart() -> None:
    story = Story()
    story.see(0, "guessing", "medium", ip(ATTACKER), user("root"), host("web-1"), outcome="failure")
    story.see(5, "guessing", "medium", ip(RIVAL), user("root"), host("web-1"), outcome="failure")
    story.see(9, "guessing", "medium", ip(ATTACKER), user("admin"), host("web-1"), outcome="failure")
    assert [incident.event_count for incident in story.changes()] == [2, 1]


def test_guesses_of_one_name_by_two_attackers_are_apart_but_a_success_is_tied_to_the_account() -> None:
    story = Story()
    story.see(0, "guessing", "medium", ip(ATTACKER), user("alice"), host("web-1"), outcome="failure")
    story.see(1, "guessing", "medium", ip(RIVAL), user("alice"), host("web-1"), outcome="failure")
    assert len(story.changes()) == 2
    story.see(2, "login from new country", "medium", ip("192.0.2.1"), user("alice"), host("web-1"), outcome="success")
    (incident,) = story.changes()
    assert incident.event_count == 2
    assert "same user alice on host web-1" in incident.added[0].reason


@pytest.mark.parametrize("name", ["root", "Administrator", "www-data", "WEB-1$", "CORP\\Administrator"])
def test_a_shared_account_does_not_tie_two_hosts_together(name: str) -> None:
    story = Story()
    story.see(0, "rule", "high", user(name), host("web-1"))
    story.see(1, "rule", "high", user(name), host("web-2"))
    assert len(story.changes()) == 2


def test_a_personal_account_ties_two_hosts_together_until_it_is_met_everywhere() -> None:
    story = Story()
    for number in range(5):
        story.see(number, "rule", "high", user("bob"), host(f"web-{number}"))
    assert [incident.event_count for incident in story.changes()] == [3, 1, 1]


def test_an_internal_gateway_alone_does_not_tie_different_victims_together() -> None:
    story = Story()
    story.see(0, "rule", "high", ip("10.0.0.1"), host("web-1"))
    story.see(1, "rule", "high", ip("10.0.0.1"), host("web-2"))
    assert len(story.changes()) == 2


def test_an_internal_address_with_the_next_stage_does() -> None:
    story = Story()
    story.see(0, "dump", "high", ip("10.0.0.5"), host("web-1"), stage="credential-access")
    story.see(60, "remote service", "high", ip("10.0.0.5"), host("db-1"), stage="lateral-movement")
    (incident,) = story.changes()
    assert "same internal source address 10.0.0.5" in incident.added[1].reason
    assert incident.added[1].reason.endswith("next stage lateral-movement after credential-access")


def test_the_strongest_link_wins() -> None:
    story = Story()
    story.see(0, "one", "high", ip(ATTACKER), host("web-1"))
    story.see(1, "two", "high", host("web-2"))
    story.see(2, "three", "high", ip(ATTACKER), host("web-2"))
    assert [incident.event_count for incident in story.changes()] == [2, 1]


def test_low_events_alone_open_nothing() -> None:
    story = Story()
    for second in range(50):
        story.see(second, f"rule {second % 2}", "low", ip(ATTACKER), host("web-1"))
        story.see(second, f"note {second}", "informational", ip(ATTACKER), host("web-1"))
    assert story.changes() == []


def test_three_different_low_rules_about_one_entity_open_an_incident_with_all_that_waited() -> None:
    story = Story()
    story.see(0, "first", "low", ip(ATTACKER), host("web-1"))
    story.see(1, "other", "low", ip(RIVAL), host("web-9"))
    story.see(2, "second", "low", ip(ATTACKER), host("web-2"))
    story.see(3, "third", "low", ip(ATTACKER), host("web-3"))
    (incident,) = story.changes()
    assert (incident.event_count, incident.severity) == (3, "low")
    assert incident.added[0].reason.startswith(
        f"same source address {ATTACKER} as 'third', which opened the incident 3 s later"
    )
    assert "with 2 earlier low events" in incident.added[2].reason


def test_an_incident_takes_in_low_events_that_came_before_and_after() -> None:
    story = Story()
    story.see(0, "odd user agent", "low", ip(ATTACKER), host("web-1"))
    story.see(60, "web shell", "high", ip(ATTACKER), host("web-1"))
    story.see(70, "note", "informational", ip(ATTACKER), host("web-1"))
    (incident,) = story.changes()
    assert [member.time_ns - BASE for member in incident.added] == [0, 60 * SECOND, 70 * SECOND]


def test_informational_events_need_more_than_the_same_host() -> None:
    story = Story()
    story.see(0, "session opened", "informational", user("carol"), host("web-1"))
    story.see(60, "web shell", "high", ip(ATTACKER), user("bob"), host("web-1"))
    story.see(70, "session opened", "informational", user("carol"), host("web-1"))
    story.see(80, "session opened", "informational", user("bob"), host("web-1"))
    (incident,) = story.changes()
    assert [member.time_ns - BASE for member in incident.added] == [60 * SECOND, 80 * SECOND]


def test_a_low_event_of_another_source_does_not_join_by_the_host() -> None:
    story = Story()
    story.see(0, "guessing", "medium", ip(ATTACKER), host("web-1"))
    story.see(1, "failed login", "low", ip(RIVAL), host("web-1"))
    story.see(2, "failed login", "low", Entity("domain", "scanner.example", "source"), host("web-1"))
    story.see(3, "odd download", "low", host("web-1"))
    assert story.changes()[0].event_count == 2


def test_events_beyond_the_gap_or_the_span_are_another_incident_that_names_its_predecessor() -> None:
    story = Story(GroupingSettings(gap_ns=HOUR, max_span_ns=2 * HOUR))
    for second in (0, 3600, 7200, 7201, 20_000):
        story.see(second, "rule", "high", ip(ATTACKER), host("web-1"))
    changes = story.changes()
    assert [incident.event_count for incident in changes] == [3, 1, 1]
    assert [incident.predecessor for incident in changes] == [None, changes[0].id, changes[1].id]


def test_a_closed_incident_gets_a_successor_for_a_strong_link_within_seven_days_only() -> None:
    def continued(second: float, *entities: Entity) -> bool:
        story = Story()
        story.see(0, "rule", "high", ip(ATTACKER), user("bob"), host("web-1"))
        (first,) = story.changes()
        story.grouper.tick(BASE + HOUR + 1)
        story.see(second, "rule", "high", *entities)
        (second_incident,) = story.changes()
        assert second_incident.id != first.id
        return second_incident.predecessor == first.id

    days = 24 * 3600
    assert continued(2 * days, ip(ATTACKER), host("db-1"))
    assert continued(6 * days, user("bob"), host("web-1"))
    assert not continued(8 * days, ip(ATTACKER), host("db-1"))
    assert not continued(2 * days, host("web-1"))


def test_an_idle_incident_closes_when_the_watermark_has_passed_the_gap() -> None:
    story = Story()
    story.see(0, "rule", "high", host("web-1"))
    story.grouper.tick(BASE + HOUR)
    assert len(story.grouper.snapshot()["open"]) == 1
    story.grouper.tick(BASE + HOUR + 1)
    assert story.grouper.snapshot()["open"] == []


def test_a_flood_is_folded_the_count_stays_exact() -> None:
    story = Story(GroupingSettings(max_repeats=5, max_members=8))
    for second in range(1000):
        story.see(second, "guessing", "medium", ip(ATTACKER), host("web-1"))
    for number in range(10):
        story.see(1000, f"rule {number}", "medium", ip(ATTACKER), host("web-1"))
    (incident,) = story.changes()
    assert (incident.event_count, len(incident.added)) == (1010, 8)
    assert incident.added[4].reason.endswith("further repeats are counted, not listed")
    assert story.grouper.take_counts()["members_not_listed"] == 1002


def test_each_batch_gives_one_change_with_what_it_added() -> None:
    story = Story()
    story.see(0, "rule", "high", host("web-1"))
    story.see(1, "rule", "high", host("web-1"))
    (first,) = story.changes(1)
    story.see(2, "rule", "high", host("web-1"))
    (second,) = story.changes(2)
    assert story.changes(3) == []
    assert (first.revision, second.revision, len(first.added), len(second.added)) == (1, 2, 2, 1)
    assert (second.created_seq, second.updated_seq, second.event_count) == (1, 2, 3)


def test_events_out_of_order_stretch_the_incident_in_both_directions() -> None:
    story = Story()
    story.see(100, "rule", "high", host("web-1"))
    story.see(50, "rule", "high", host("web-1"))
    (incident,) = story.changes()
    assert (incident.first_ns, incident.last_ns) == (BASE + 50 * SECOND, BASE + 100 * SECOND)
    assert "as 'rule' 50 s later" in incident.added[1].reason


def test_severity_is_that_of_the_worst_member_and_never_falls() -> None:
    story = Story()
    ranks = []
    for second, severity in enumerate(["medium", "critical", "low"]):
        story.see(second, f"rule {severity}", severity, host("web-1"))
        ranks.append(story.changes()[0].severity)
    assert ranks == ["medium", "critical", "critical"]


def test_names_that_a_sender_wrote_cannot_break_a_reason() -> None:
    story = Story()
    story.see(0, "rule", "high", host("web\n1\x1b[2J" + "x" * 1000))
    story.see(1, "rule", "high", host("web\n1\x1b[2J" + "x" * 1000))
    reasons = [member.reason for member in story.changes()[0].added]
    assert all(reason.isprintable() and len(reason) < 500 for reason in reasons)


def test_open_incidents_and_waiting_events_are_bounded() -> None:
    story = Story(GroupingSettings(max_open=10, max_waiting=10, max_closed_links=20, max_places=10))
    for number in range(100):
        story.see(number, "rule", "high", ip(f"203.0.113.{number}"), user(f"u{number}"), host(f"web-{number}"))
        story.see(number, "low rule", "low", host(f"other-{number}"))
    state = story.grouper.snapshot()
    assert [len(state[part]) for part in ("open", "pending", "closed", "places")] == [10, 10, 20, 10]
    counts = story.grouper.take_counts()
    assert (counts["incidents_opened"], counts["incidents_closed_early"], counts["lows_dropped"]) == (100, 90, 90)


def test_tenants_have_different_incidents_for_the_same_story() -> None:
    ids = set()
    for number in (1, 2):
        story = Story(tenant=TenantId(UUID(int=number)))
        story.see(0, "rule", "high", host("web-1"))
        ids.add(story.changes()[0].id)
    assert len(ids) == 2


sightings = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=9000),
        st.sampled_from(["a", "b", "c", "d"]),
        st.sampled_from(["informational", "low", "medium", "high"]),
        st.sampled_from(["", "initial-access", "execution", "impact"]),
        st.integers(min_value=0, max_value=2),
    ),
    max_size=30,
)


def play(story: Story, world: int, rows: list[tuple[int, str, Severity, str, int]]) -> list[DetectionEvent]:
    """Events of one world: no entity of it occurs in another one."""
    return [
        story.event(
            second, rule, severity, ip(f"203.0.{world}.{who}"), user(f"u{world}-{who}"), host(f"h{world}"), stage=stage
        )
        for second, rule, severity, stage, who in rows
    ]


@given(sightings, sightings, st.randoms(use_true_random=False))
def test_unrelated_events_in_between_do_not_change_the_partition(left: Any, right: Any, source: random.Random) -> None:
    def partition(events: list[DetectionEvent]) -> set[frozenset[UUID]]:
        grouper = IncidentGrouper(TENANT)
        for event in events:
            grouper.observe(event, 1)
        return {frozenset(member.event_id for member in change.added) for change in grouper.take_changes(1)}

    story = Story()
    worlds = [play(story, 1, left), play(story, 2, right)]
    order = [0] * len(left) + [1] * len(right)
    source.shuffle(order)
    queues = [iter(events) for events in worlds]
    assert partition([next(queues[world]) for world in order]) == partition(worlds[0] + worlds[1])


@given(sightings, st.integers(min_value=0, max_value=30))
def test_a_restored_grouper_goes_on_as_the_original(rows: Any, cut: int) -> None:
    story = Story(GroupingSettings(max_open=3, max_waiting=4, max_closed_links=4, max_places=2))
    restored = IncidentGrouper(TENANT, story.grouper._settings)
    groupers = [story.grouper]
    for number, event in enumerate(play(story, 1, rows)):
        if number == cut:
            state = msgspec.msgpack.encode(story.grouper.snapshot())
            restored.restore(msgspec.msgpack.decode(state))
            groupers.append(restored)
            story.grouper.take_counts()
        for grouper in groupers:
            grouper.observe(event, number)
            grouper.tick(event.time_ns - HOUR)
        changes = [grouper.take_changes(number) for grouper in groupers]
        assert changes[0] == changes[-1]
    if len(groupers) == 2:
        assert restored.snapshot() == story.grouper.snapshot()
        assert restored.take_counts() == story.grouper.take_counts()
