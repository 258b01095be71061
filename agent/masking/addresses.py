"""Addresses become addresses: a keyed permutation that keeps prefixes and classes.

Two addresses that share their first n bits have tokens that share exactly their first n bits, so networks stay
networks of the same size and rollups, grouping and CIDR rules work on tokens (Xu, Fan, Ammar, Moon, "Prefix-Preserving
IP Address Anonymization", ICNP 2002; here with HMAC-SHA256, one call for the 255 tree nodes of a byte). Private
networks stay within themselves, and addresses that everybody has (loopback, link-local IPv4, multicast) stay as they
are. With the key it can be inverted; without it, who can place known addresses in the log learns what shares their
prefixes: the price of keeping prefixes at all.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final

from agent.masking.key import MaskingKey

CLOSED_NETWORKS: Final = (
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"),
    *("fc00::/8", "fd00::/8", "fe80::/64", "2002::/16", "64:ff9b::/96", "::ffff:0:0/96"),
)
"""Networks whose addresses become other addresses of the same network."""

KEPT_NETWORKS: Final = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/128", "::1/128", "ff00::/8")
"""Networks whose addresses stay as they are: they say nothing about anybody."""

_REMEMBERED: Final = 8_192
_REMEMBERED_PREFIXES: Final = 4_096
# IPv4 inside IPv6: mapped and NAT64. The last four bytes are masked as the IPv4 address that they are.
_WRAPPED: Final = (inet_pton(AF_INET6, "::ffff:0:0")[:12], inet_pton(AF_INET6, "64:ff9b::")[:12])


class AddressMap:
    """The permutation of one key. Packed addresses have 4 or 16 bytes."""

    def __init__(self, key: MaskingKey) -> None:
        self._flips = {
            4: _flip_source(key.derived("address v4"), _pinned(4)),
            16: _flip_source(key.derived("address v6"), _pinned(16)),
        }
        self.token_text = lru_cache(_REMEMBERED)(self._token_text)

    def token(self, packed: bytes) -> bytes:
        """The token of a packed address, packed."""
        return self._mapped(packed, self._forward)

    def clear(self, packed: bytes) -> bytes:
        """The inverse of `token`."""
        return self._mapped(packed, self._backward)

    def clear_text(self, text: str) -> str:
        """The address that a token stands for; raises ValueError for what is no address."""
        return _text_of(self.clear(_packed(text)))

    def network(self, text: str) -> str:
        """The network (CIDR notation) of the tokens of all addresses in a network. Raises ValueError."""
        network = ip_network(text, strict=False)
        token = self.token(network.network_address.packed)
        return str(ip_network((token, network.prefixlen), strict=False))

    def _token_text(self, text: str) -> str:
        """The token of an address as text, in its shortest form; raises ValueError for what is no address."""
        return _text_of(self.token(_packed(text)))

    def _mapped(self, packed: bytes, one_way: Callable[[bytes], bytes]) -> bytes:
        if len(packed) == 16:
            if packed[:12] in _WRAPPED:
                return packed[:12] + self._mapped(packed[12:], one_way)
            if packed[0] == 0xFF or (packed[15] < 2 and not any(packed[:15])):
                return packed
        elif packed[0] in (0, 127) or packed[0] >= 224 or packed[:2] == b"\xa9\xfe":
            return packed
        return one_way(packed)

    def _forward(self, packed: bytes) -> bytes:
        flips_of, out = self._flips[len(packed)], bytearray()
        for place, byte in enumerate(packed):
            flips, node, token = flips_of(packed[:place]), 1, 0
            for shift in (7, 6, 5, 4, 3, 2, 1, 0):
                bit = byte >> shift & 1
                token = token << 1 | bit ^ (flips >> node & 1)
                node = node << 1 | bit
            out.append(token)
        return bytes(out)

    def _backward(self, packed: bytes) -> bytes:
        flips_of, out = self._flips[len(packed)], bytearray()
        for byte in packed:
            flips, node = flips_of(bytes(out)), 1
            for shift in (7, 6, 5, 4, 3, 2, 1, 0):
                node = node << 1 | (byte >> shift & 1) ^ (flips >> node & 1)
            out.append(node & 0xFF)
        return bytes(out)


def _flip_source(key: bytes, pinned: dict[bytes, int]) -> Callable[[bytes], int]:
    """From the bytes before one to the flips of its tree: bit n says whether the bit below node n is flipped."""

    @lru_cache(_REMEMBERED_PREFIXES)
    def flips(before: bytes) -> int:
        return int.from_bytes(hmac.digest(key, before, "sha256"), "big") & ~pinned.get(before, 0)

    return flips


def _pinned(size: int) -> dict[bytes, int]:
    """The nodes above every closed or kept network: not flipping there is what keeps the network in its place."""
    pinned: dict[bytes, int] = {}
    for network in _networks(size):
        first = network.network_address.packed
        for depth in range(network.prefixlen):
            level, bit = divmod(depth, 8)
            node = 1 << bit | first[level] >> (8 - bit)
            pinned[first[:level]] = pinned.get(first[:level], 0) | 1 << node
    return pinned


def _networks(size: int) -> Iterable[IPv4Network | IPv6Network]:
    networks = (ip_network(text) for text in (*CLOSED_NETWORKS, *KEPT_NETWORKS))
    return (network for network in networks if network.max_prefixlen == size * 8)


def _packed(text: str) -> bytes:
    try:
        return inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except OSError as error:
        raise ValueError(f"{text!r} is no address") from error


def _text_of(packed: bytes) -> str:
    return inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)
