"""What events can share, and how much it weighs."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from detect.link import JOIN_WEIGHT, STRONG_WEIGHT, Sighting, is_internal, is_personal, links_of, phrase, rivals
from detect.reason import distance, short
from detect.record import Entity


def sighting(*entities: Entity) -> Sighting:
    return Sighting(uuid4().hex, "rule", "title", "high", 70.0, 0, 0, entities, (), (), "unknown")


@pytest.mark.parametrize(
    ("address", "internal"),
    [
        ("10.1.2.3", True),
        ("172.16.0.1", True),
        ("172.32.0.1", False),
        ("192.168.1.1", True),
        ("100.64.0.1", True),
        ("127.0.0.1", True),
        ("169.254.1.1", True),
        ("203.0.113.7", False),
        ("fe80::1", True),
        ("fd00::1", True),
        ("::1", True),
        ("2001:db8::1", False),
        ("no address", True),
    ],
)
def test_private_addresses_are_told_from_public_ones(address: str, internal: bool) -> None:
    assert is_internal(address) is internal


@pytest.mark.parametrize(
    ("user", "personal"),
    [("bob", True), ("CORP\\bob", True), ("bob@corp.example", True), ("root", False), ("ROOT", False), ("", False)],
)
def test_personal_accounts_are_told_from_shared_ones(user: str, personal: bool) -> None:
    assert is_personal(user) is personal


def test_links_come_heaviest_first_and_are_said_as_a_person_would() -> None:
    links = links_of(
        sighting(
            Entity("host", "web-1"), Entity("user", "bob"), Entity("ip", "203.0.113.7", "source"), Entity("hash", "ab")
        )
    )
    assert [(phrase(link.key), link.weight) for link in links] == [
        ("source address 203.0.113.7", 100),
        ("user bob on host web-1", 80),
        ("host web-1", 60),
        ("user bob", 50),
        ("file hash ab", 40),
    ]


@pytest.mark.parametrize(
    "entity",
    [
        Entity("hash", "ab"),
        Entity("file", "/bin/sh"),
        Entity("domain", "example.org"),
        Entity("ip", "10.0.0.1", "source"),
        Entity("process", "sshd"),
        Entity("user_agent", "curl"),
    ],
)
def test_what_many_victims_share_joins_nothing_by_itself(entity: Entity) -> None:
    assert all(link.weight < JOIN_WEIGHT for link in links_of(sighting(entity)))


def test_a_target_address_is_no_link_and_a_remote_name_is_a_strong_one() -> None:
    assert links_of(sighting(Entity("ip", "203.0.113.7", "target"))) == ()
    assert links_of(sighting(Entity("domain", "evil.example", "source")))[0].weight >= STRONG_WEIGHT


def test_the_number_of_links_is_bounded() -> None:
    assert len(links_of(sighting(*(Entity("host", f"web-{number}") for number in range(1000))))) == 32


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [({"a"}, {"b"}, True), ({"a"}, {"a", "b"}, False), (set(), {"b"}, False), ({"a"}, set(), False)],
)
def test_rivals_both_have_sources_and_none_in_common(mine: set[str], theirs: set[str], expected: bool) -> None:
    assert rivals(mine, theirs) is expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "in the same second"),
        (-40, "40 s before"),
        (-60, "1 min before"),
        (95, "1 min 35 s later"),
        (-7500, "2 h 5 min before"),
        (90_000, "1 d 1 h later"),
    ],
)
def test_distances_are_said_in_words(seconds: Any, expected: str) -> None:
    assert distance(10**15, 10**15 + seconds * 10**9, "later", "before") == expected


def test_values_in_sentences_are_short_and_printable() -> None:
    assert short("plain") == "plain"
    assert short("a\x00b\nc") == "a\ufffdb\ufffdc"
    assert len(short("x" * 10_000)) == 160
