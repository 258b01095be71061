"""Which of many networks an address is in, by one look-up for each length of prefix."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network

from detect.sigma.values import address_of

_BITS = {4: 32, 6: 128}
_FIRST = frozenset("0123456789abcdefABCDEF:")


class NetworkTable:
    """Networks with their numbers."""

    def __init__(self, networks: Sequence[tuple[int, str]]) -> None:
        """Raises ValueError for text that is no network."""
        self._tables: dict[tuple[int, int], dict[int, list[int]]] = {}
        for number, text in networks:
            network = ip_network(text)
            shift = _BITS[network.version] - network.prefixlen
            table = self._tables.setdefault((network.version, shift), {})
            table.setdefault(int(network.network_address) >> shift, []).append(number)

    def containing(self, text: str) -> list[int]:
        """The numbers of the networks that hold the address; none for text that is no plain address."""
        if text[:1] not in _FIRST:
            return []
        address = address_of(text)
        if address is None:
            return []
        version, whole = address.version, int(address)
        found: list[int] = []
        for (family, shift), table in self._tables.items():
            if family == version:
                found += table.get(whole >> shift, ())
        return found
