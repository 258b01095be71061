"""Which checks run in the edge's own process: those that are done in no time, whatever they were packed to."""

from __future__ import annotations

from actors.rule_check_task import is_small
from detect.sigma.pack import MAGIC, pack_bytes, starter_pack, unpacks_to_at_most
from tests.unit.sigma.records import rule_text


def test_many_equal_rules_are_not_few_because_they_pack_well() -> None:
    many = pack_bytes([(f"{number}.yml", rule_text("a: {f: x}\ncondition: a")) for number in range(3000)])
    assert len(many) < 1 << 16
    assert not is_small(many)


def test_some_hundred_rules_are_few() -> None:
    assert is_small(pack_bytes(starter_pack()))
    assert not is_small(b"\x1f\x8b of others: who knows what is in it")
    assert not is_small(MAGIC + b"damaged")


def test_the_bound_is_of_unpacked_bytes() -> None:
    pack = pack_bytes([("a", "x" * 1000)])
    size = len('[["a",""]]') + 1000
    assert unpacks_to_at_most(pack, size)
    assert not unpacks_to_at_most(pack, size - 1)
