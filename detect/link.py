"""What ties an event to an incident: the table of link weights, and the links that an event offers.

A weight says how sure it is that two events with the same value have the same story. Values that many victims share
(root, service accounts, an internal gateway) weigh too little to tie different victims together by themselves.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Literal, NamedTuple

import msgspec

from detect.event import DetectionEvent, Severity
from detect.record import Entity, EntityKind, Nanoseconds

LinkKind = Literal["source", "account", "host", "user", "internal", "domain", "url", "hash", "email", "file"]
LinkKey = tuple[LinkKind, str]

LINK_WEIGHTS: dict[LinkKind, int] = {
    "source": 100,  # a public address or a remote name that acts
    "account": 80,  # a personal user on one host
    "host": 60,
    "user": 50,  # a personal user, on whatever host
    "internal": 40,  # a private source address: may be a gateway
    "domain": 40,
    "url": 40,
    "hash": 40,  # often a system binary
    "email": 40,
    "file": 20,
}
JOIN_WEIGHT = 50
"""An event joins an incident when its strongest link weighs at least this much."""

NEXT_STAGE_WEIGHT = 15
"""Added when the event is a later stage of the kill chain than everything in the incident so far."""

COMMON_WEIGHT = 10
"""Weight of a user or private address that was met on COMMON_HOSTS different hosts."""

COMMON_HOSTS = 4

RIVAL_WEIGHT = 20
"""Weight of a host, or of a user in a failed login, when event and incident have different public sources."""

STRONG_WEIGHT = 80
"""From this weight on a link ties an incident to a closed one as its successor, and takes informational events in."""

SHARED_USERS: frozenset[str] = frozenset(
    (
        *("root", "administrator", "admin", "system", "guest", "nobody", "daemon", "test", "user", "support"),
        *("operator", "ftp", "ftpuser", "git", "mysql", "oracle", "postgres", "postgresql", "www", "www-data"),
        *("apache", "nginx", "tomcat", "jenkins", "hadoop", "ubuntu", "debian", "centos", "ec2-user", "pi"),
        *("vagrant", "ansible", "backup", "bin", "sys", "mail", "nagios", "zabbix", "redis", "mongodb"),
        *("elasticsearch", "docker", "deploy", "sshd", "systemd", "dbus"),
    )
)
"""User names that exist, or are guessed, on every host: they say nothing about who acted."""

_INTERNAL_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("fc00::/7", "fe80::/10", "::1/128"),
    )
)
_PLAIN_KINDS: dict[EntityKind, LinkKind] = {
    "domain": "domain",
    "url": "url",
    "hash": "hash",
    "email": "email",
    "file": "file",
}
_PHRASES: dict[LinkKind, str] = {
    "source": "source address",
    "internal": "internal source address",
    "host": "host",
    "user": "user",
    "domain": "domain",
    "url": "URL",
    "hash": "file hash",
    "email": "e-mail address",
    "file": "file",
}
_MAX_LINKS = 32


class Sighting(msgspec.Struct, frozen=True, array_like=True):
    """As much of a detection event as grouping needs and keeps."""

    event_id: str
    rule_id: str
    title: str
    severity: Severity
    score: float
    time_ns: Nanoseconds
    end_ns: Nanoseconds
    entities: tuple[Entity, ...]
    techniques: tuple[str, ...]
    tactics: tuple[str, ...]
    outcome: str

    @classmethod
    def of(cls, event: DetectionEvent) -> Sighting:
        """The event's share in grouping."""
        return cls(
            event_id=event.id.hex,
            rule_id=event.rule_id,
            title=event.title,
            severity=event.severity,
            score=event.score,
            time_ns=event.time_ns,
            end_ns=max(event.time_ns, event.end_ns),
            entities=event.entities,
            techniques=event.techniques,
            tactics=event.tactics,
            outcome=event.outcome,
        )

    @property
    def stage(self) -> str:
        """The tactic that the event stands for: the first one its rule names; empty when it names none."""
        return self.tactics[0] if self.tactics else ""


class Link(NamedTuple):
    """A key that events can share, and its weight before an incident is looked at."""

    key: LinkKey
    weight: int


def links_of(sighting: Sighting) -> tuple[Link, ...]:
    """The links an event offers, the heaviest first; at most 32."""
    return _links(sighting.entities)


@lru_cache(maxsize=1024)
def _links(entities: tuple[Entity, ...]) -> tuple[Link, ...]:
    hosts = [entity.value for entity in entities if entity.kind == "host"]
    keys: dict[LinkKey, None] = {}
    for entity in entities:
        if entity.kind == "host":
            keys["host", entity.value] = None
        elif entity.kind == "user":
            if is_personal(entity.value):
                keys["user", entity.value] = None
                for host in hosts:
                    keys["account", f"{entity.value}\x1f{host}"] = None
        elif entity.kind == "ip":
            if entity.role != "target":
                keys["internal" if is_internal(entity.value) else "source", entity.value] = None
        elif entity.kind == "domain" and entity.role == "source":
            keys["source", entity.value] = None
        elif entity.kind in _PLAIN_KINDS:
            keys[_PLAIN_KINDS[entity.kind], entity.value] = None
    links = sorted((Link(key, LINK_WEIGHTS[key[0]]) for key in keys), key=lambda link: (-link.weight, link.key))
    return tuple(links[:_MAX_LINKS])


def phrase(key: LinkKey) -> str:
    """A key as a person would say it: `source address 203.0.113.7`, `user bob on host web-1`."""
    kind, value = key
    if kind == "account":
        user, _, host = value.partition("\x1f")
        return f"user {user} on host {host}"
    return f"{_PHRASES[kind]} {value}"


def rivals(mine: set[str], theirs: set[str]) -> bool:
    """Whether two sets of public sources speak of different attackers: both name some, none in common.

    One attacker known by address here and by name there looks like two until an event names both.
    """
    return bool(mine and theirs) and not mine & theirs


def is_contested(key: LinkKey, outcome: str) -> bool:
    """Whether a link means little between rivals: a host always, a user where the event is a failure (a guess)."""
    return key[0] == "host" or (key[0] in ("account", "user") and outcome == "failure")


def sources_of(links: tuple[Link, ...]) -> set[str]:
    """The public addresses and remote names among the links."""
    return {link.key[1] for link in links if link.key[0] == "source"}


def is_personal(user: str) -> bool:
    """Whether a user name points to one person: no shared or machine account."""
    name = user.rpartition("\\")[2].partition("@")[0].lower()
    return bool(name) and name not in SHARED_USERS and not name.endswith("$")


@lru_cache(maxsize=16384)
def is_internal(address: str) -> bool:
    """Whether an address belongs to a private, loopback or link-local network (or is none)."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return True
    return any(parsed.version == network.version and parsed in network for network in _INTERNAL_NETWORKS)
