"""Addresses that this host must never block: its own, gateway, resolvers, the server, and what its owner names."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

_PROC: Final = Path("/proc/net")
_RESOLVERS: Final = Path("/etc/resolv.conf")
_LOCAL = re.compile(r"\|-- (\d+\.\d+\.\d+\.\d+)\n\s+/32 host LOCAL")


class CannotTell(Exception):
    """What must not be blocked could not be found out, so nothing may be."""


def plain_address(text: str) -> Address:
    """The address, an IPv4 one inside IPv6 as what it is. Raises ValueError for networks, zones and anything else."""
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError("an address with a zone is of this network alone")
        return address.ipv4_mapped or address
    return address


def why_never(
    address: Address, never: Iterable[IPv4Network | IPv6Network], own: Iterable[Address], servers: Iterable[Address]
) -> str:
    """Why this address must never be blocked; empty when it may be."""
    if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local:
        return "it is a loopback, unspecified, multicast or link-local address"
    if address in (IPv4Address("255.255.255.255"),):
        return "it is the broadcast address"
    if any(address in network for network in never if network.version == address.version):
        return "it is in the list of addresses that the host's policy never blocks"
    if address in set(servers):
        return "it is the address of this agent's own server"
    if address in set(own):
        return "it is this host's own address, its gateway or its resolver"
    return ""


def server_addresses(hosts: Sequence[str]) -> set[Address]:
    """All addresses of the servers. Raises CannotTell where a name has none."""
    found: set[Address] = set()
    for host in hosts:
        try:
            answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            raise CannotTell(f"the address of {host} could not be found: {error}") from error
        found |= {ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers}
    return found


def own_addresses(proc: Path = _PROC, resolvers: Path = _RESOLVERS) -> set[Address]:
    """The host's addresses, its default gateways and its resolvers. Raises CannotTell where the kernel does not say."""
    try:
        found: set[Address] = {ip_address(text) for text in _LOCAL.findall((proc / "fib_trie").read_text())}
        routes = [line.split() for line in (proc / "route").read_text().splitlines()[1:]]
        found |= {IPv4Address(struct.pack("<I", int(route[2], 16))) for route in routes if int(route[2], 16)}
        found |= {IPv6Address(int(line.split()[0], 16)) for line in _lines(proc / "if_inet6")}
        found |= {IPv6Address(int(line.split()[4], 16)) for line in _lines(proc / "ipv6_route")}
    except (OSError, ValueError, IndexError) as error:
        raise CannotTell(f"this host's own addresses could not be read: {error}") from error
    for line in _lines(resolvers):
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            with contextlib.suppress(ValueError):
                found.add(ip_address(words[1].partition("%")[0]))
    return found


def _lines(path: Path) -> list[str]:
    """Empty where there is no such file: a host without IPv6, or without resolvers."""
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        return []
