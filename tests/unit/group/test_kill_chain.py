"""The order of tactics, and how far sightings advanced along it."""

from __future__ import annotations

from detect.kill_chain import TACTICS, in_chain_order, longest_advance, tactic_position


def test_the_fourteen_tactics_have_their_places_and_unknown_ones_come_last() -> None:
    assert len(TACTICS) == len(set(TACTICS)) == 14
    assert tactic_position("initial-access") < tactic_position("credential-access") < tactic_position("impact")
    assert tactic_position("no-such-tactic") == 14


def test_tactics_are_put_in_order_once_each() -> None:
    assert in_chain_order(["impact", "execution", "impact"]) == ("execution", "impact")


def test_an_advance_counts_tactics_seen_one_after_another_in_order() -> None:
    assert longest_advance({}) == 0
    assert longest_advance({"initial-access": 1, "execution": 2, "persistence": 3}) == 3
    assert longest_advance({"initial-access": 3, "execution": 2, "persistence": 1}) == 1
    assert longest_advance({"impact": 1, "execution": 2, "persistence": 2, "discovery": 9}) == 3
