"""Addresses become addresses: one to one, prefixes and classes kept, only with the key to be turned back."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.masking.addresses import CLOSED_NETWORKS, KEPT_NETWORKS, AddressMap
from agent.masking.key import MaskingKey
from detect.link import is_internal

KEY, OTHER = MaskingKey(b"k" * 32), MaskingKey(b"o" * 32)
MAP = AddressMap(KEY)
V4 = st.integers(0, 2**32 - 1).map(lambda number: number.to_bytes(4, "big"))
V6 = st.integers(0, 2**128 - 1).map(lambda number: number.to_bytes(16, "big"))


def shared_bits(one: bytes, two: bytes) -> int:
    differing = int.from_bytes(one, "big") ^ int.from_bytes(two, "big")
    return len(one) * 8 - differing.bit_length()


def relatives(packed: st.SearchStrategy[bytes]) -> st.SearchStrategy[tuple[bytes, bytes]]:
    """Pairs that share any number of first bits: two free ones nearly always share none or one."""

    def related(drawn: tuple[bytes, int, int]) -> tuple[bytes, bytes]:
        first, cut, noise = drawn
        bits = len(first) * 8
        low = (1 << (bits - cut % (bits + 1))) - 1
        number = int.from_bytes(first, "big") ^ (noise & low)
        return first, number.to_bytes(len(first), "big")

    return st.tuples(packed, st.integers(0, 128), st.integers(0, 2**128 - 1)).map(related)


@given(relatives(V4))
def test_two_addresses_share_as_many_first_bits_after_masking_as_before(pair: tuple[bytes, bytes]) -> None:
    assert shared_bits(MAP.token(pair[0]), MAP.token(pair[1])) == shared_bits(*pair)


@given(relatives(V6))
def test_so_do_two_of_version_six(pair: tuple[bytes, bytes]) -> None:
    assert shared_bits(MAP.token(pair[0]), MAP.token(pair[1])) == shared_bits(*pair)


@given(st.one_of(V4, V6))
def test_the_key_turns_a_token_back(packed: bytes) -> None:
    assert MAP.clear(MAP.token(packed)) == packed


@given(V4)
def test_inside_and_outside_stay_apart(packed: bytes) -> None:
    assert is_internal(str(IPv4Address(MAP.token(packed)))) == is_internal(str(IPv4Address(packed)))


@pytest.mark.parametrize("text", (*CLOSED_NETWORKS, *KEPT_NETWORKS))
def test_a_class_is_its_own_image(text: str) -> None:
    network = ip_network(text)
    assert ip_network(MAP.network(text)) == network
    for address in (network[0], network[-1], network[network.num_addresses // 3]):
        assert ip_address(MAP.token(address.packed)) in network


KEPT = ["127.0.0.1", "0.0.0.0", "255.255.255.255", "169.254.169.254", "224.0.0.251", "::1"]  # noqa: S104


@pytest.mark.parametrize("text", KEPT)
def test_what_says_nothing_about_anybody_stays(text: str) -> None:
    assert MAP.token_text(text) == text


def test_everything_else_moves() -> None:
    addresses = [str(network[index]) for network in map(ip_network, ("10.0.0.0/8", "8.0.0.0/8")) for index in range(50)]
    assert sum(MAP.token_text(text) != text for text in addresses) == len(addresses)


@given(V4, st.integers(0, 32))
def test_a_network_holds_the_tokens_of_its_addresses_and_no_others(packed: bytes, length: int) -> None:
    network = ip_network((packed, length), strict=False)
    token = ip_network(MAP.network(str(network)))
    assert token.prefixlen == length
    assert ip_address(MAP.token(network[0].packed)) in token
    assert ip_address(MAP.token(network[-1].packed)) in token


@given(V4)
def test_an_ipv4_address_inside_an_ipv6_one_keeps_its_token(packed: bytes) -> None:
    wrapped = IPv6Address(f"::ffff:{IPv4Address(packed)}").packed
    assert MAP.token(wrapped) == wrapped[:12] + MAP.token(packed)


def test_another_key_gives_other_tokens() -> None:
    theirs = AddressMap(OTHER)
    addresses = [f"203.0.{third}.{last}" for third in range(20) for last in range(20)]
    same = sum(MAP.token_text(text) == theirs.token_text(text) for text in addresses)
    assert same < 5


@pytest.mark.parametrize("text", ["", "1.2.3", "1.2.3.4.5", "256.1.1.1", "a", "::1::", "1.2.3.4/8"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no address"):
        MAP.token_text(text)
