"""What the owner of a host lets the server ask of it: a file that the server cannot change.

Every job is held against this policy, read anew each time, after its signature was found good. A file that others can
write, or that says something unknown, allows nothing. Without a file PING, RULES_RELOAD, CERT_ROTATE are allowed, and
a BLOCK_IP that only says what it would do.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from agent.jobs import JOB_TYPES

POLICY_PATH: Final = Path("/etc/trustsoc-agent/policy.yml")
_MOST_BYTES: Final = 262_144
_RATE = re.compile(r"([1-9][0-9]{0,5})/(second|minute|hour|day)")
_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_MIB: Final = 1_048_576


class HostPolicyError(Exception):
    """The policy cannot be read or trusted; the message names the file, the place and what to do."""


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` jobs at once, and as many again in `seconds`."""

    count: int
    seconds: int

    def allows(self, starts: Sequence[int], now_ms: int) -> bool:
        """Whether one more may start now, after starts at these times (ms, oldest first): a bucket of tokens."""
        tokens, last = float(self.count), None
        for at in starts:
            tokens = self._filled(tokens, last, at) - 1.0
            last = at
        return self._filled(tokens, last, now_ms) >= 1.0

    def _filled(self, tokens: float, last: int | None, at: int) -> float:
        # A clock that went back fills nothing.
        passed = 0 if last is None else max(0, at - last)
        return min(float(self.count), tokens + passed * self.count / (self.seconds * 1000))


@dataclass(frozen=True, slots=True)
class CollectPolicy:
    """Files may be taken from below these folders, each of at most so many bytes."""

    roots: tuple[str, ...] = ()
    most_bytes: int = 16 * _MIB


@dataclass(frozen=True, slots=True)
class BlockPolicy:
    """Whether addresses are really blocked, which never, for how long at most and how many at once."""

    mode: Literal["dry_run", "enforce"] = "dry_run"
    never: tuple[IPv4Network | IPv6Network, ...] = ()
    most_seconds: int = 86_400
    most_addresses: int = 1_000


@dataclass(frozen=True, slots=True)
class ConfigPolicy:
    """What a collector's configuration may name.

    `destinations` are origins (scheme://host:port) that exporters may send to, `paths` folders or files that it may
    read, `storage` folders that it may write to, `listen` addresses (host:port) that receivers may open, `environment`
    variables that it may use; the rest are types of components.
    """

    destinations: tuple[str, ...] = ("http://127.0.0.1:4319",)
    paths: tuple[str, ...] = ("/var/log",)
    storage: tuple[str, ...] = ("/var/lib/trustsoc-agent/collector",)
    listen: tuple[str, ...] = ()
    environment: tuple[str, ...] = ("TRUSTSOC_INGEST_KEY",)
    receivers: tuple[str, ...] = ("filelog", "file_log", "journald", "syslog", "otlp")
    processors: tuple[str, ...] = (
        "batch",
        "memory_limiter",
        "attributes",
        "resource",
        "resourcedetection",
        "filter",
        "transform",
        "redaction",
    )
    exporters: tuple[str, ...] = ("otlphttp", "otlp_http")
    extensions: tuple[str, ...] = ("file_storage",)
    connectors: tuple[str, ...] = ()
    most_bytes: int = 65_536


@dataclass(frozen=True, slots=True)
class UpgradePolicy:
    """The key that signs packages (raw Ed25519; None: no upgrades), and whether an older version may come back."""

    key: bytes | None = None
    allow_older: bool = False
    most_bytes: int = 256 * _MIB
    most_unpacked_bytes: int = 1024 * _MIB


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """The whole policy. `jobs` are the types that are allowed, each with its rate."""

    jobs: Mapping[str, Rate] = field(default_factory=lambda: dict(_DEFAULT_JOBS))
    collect_file: CollectPolicy = field(default_factory=CollectPolicy)
    block_ip: BlockPolicy = field(default_factory=BlockPolicy)
    update_config: ConfigPolicy = field(default_factory=ConfigPolicy)
    upgrade: UpgradePolicy = field(default_factory=UpgradePolicy)


_DEFAULT_RATES: Final[dict[str, Rate]] = {
    "PING": Rate(60, 3600),
    "RULES_RELOAD": Rate(12, 3600),
    "CERT_ROTATE": Rate(6, 3600),
    "UPDATE_CONFIG": Rate(6, 3600),
    "UPGRADE": Rate(3, 3600),
    "COLLECT_FILE": Rate(20, 3600),
    "BLOCK_IP": Rate(60, 3600),
}
_DEFAULT_JOBS: Final[dict[str, Rate]] = {
    name: _DEFAULT_RATES[name] for name in ("PING", "RULES_RELOAD", "CERT_ROTATE", "BLOCK_IP")
}


def read_host_policy(path: Path = POLICY_PATH) -> HostPolicy:
    """The policy in the file, or the safe default where there is none. Raises HostPolicyError."""
    text = _trusted_text(path)
    if text is None:
        return HostPolicy()
    return parse_host_policy(text, str(path))


def parse_host_policy(text: str, place: str = "policy") -> HostPolicy:
    """The policy that the YAML text states. Raises HostPolicyError for what it does not understand."""
    import yaml

    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise HostPolicyError(f"{place} is not YAML: {error}") from error
    section = _Section(document if document is not None else {}, place)
    section.knows("jobs", "collect_file", "block_ip", "update_config", "upgrade")
    jobs = _jobs(section)
    return HostPolicy(
        jobs=jobs if jobs is not None else dict(_DEFAULT_JOBS),
        collect_file=_collect(section.section("collect_file")),
        block_ip=_block(section.section("block_ip")),
        update_config=_config(section.section("update_config")),
        upgrade=_upgrade(section.section("upgrade")),
    )


class _Section:
    """One mapping of the file, which knows its place for messages."""

    def __init__(self, value: Any, place: str) -> None:
        self.place = place
        if not isinstance(value, dict):
            self.wrong("must be a mapping")
        self.value: dict[Any, Any] = value

    def wrong(self, message: str) -> NoReturn:
        raise HostPolicyError(f"{self.place}: {message}")

    def knows(self, *names: str) -> None:
        for name in self.value:
            if name not in names:
                self.wrong(f"{name!r} is not known here, only {', '.join(names)}")

    def section(self, name: str) -> _Section:
        return _Section(self.value.get(name, {}), f"{self.place}: {name}")

    def texts(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value = self.value.get(name, list(default))
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            self.wrong(f"{name} must be a list of texts")
        return tuple(value)

    def folders(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        folders = self.texts(name, default)
        for folder in folders:
            if not folder.startswith("/") or os.path.normpath(folder) != folder or folder == "/":
                self.wrong(f"{name}: {folder!r} must be an absolute path below /, without '..' and without a last '/'")
        return folders

    def number(self, name: str, default: int) -> int:
        value = self.value.get(name, default)
        if type(value) is not int or value < 1:
            self.wrong(f"{name} must be an integer above 0")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.value.get(name, default)
        if type(value) is not bool:
            self.wrong(f"{name} must be true or false")
        return value


def _jobs(section: _Section) -> dict[str, Rate] | None:
    if "jobs" not in section.value:
        return None
    jobs = section.section("jobs")
    rates: dict[str, Rate] = {}
    for name, value in jobs.value.items():
        if name not in JOB_TYPES:
            jobs.wrong(f"{name!r} is no type of job, only {', '.join(JOB_TYPES)}")
        if value is None:
            rates[name] = _DEFAULT_RATES[name]
            continue
        found = _RATE.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            jobs.wrong(f"{name} must be a rate such as 6/hour, not {value!r}")
        rates[name] = Rate(int(found[1]), _SECONDS[found[2]])
    return rates


def _collect(section: _Section) -> CollectPolicy:
    section.knows("roots", "most_bytes")
    return CollectPolicy(section.folders("roots", ()), section.number("most_bytes", CollectPolicy().most_bytes))


def _block(section: _Section) -> BlockPolicy:
    section.knows("mode", "never", "most_seconds", "most_addresses")
    default = BlockPolicy()
    mode = section.value.get("mode", default.mode)
    if mode not in ("dry_run", "enforce"):
        section.wrong("mode must be dry_run or enforce")
    try:
        never = tuple(ip_network(text) for text in section.texts("never", ()))
    except ValueError as error:
        section.wrong(f"never: {error}")
    return BlockPolicy(
        mode=mode,
        never=never,
        most_seconds=section.number("most_seconds", default.most_seconds),
        most_addresses=section.number("most_addresses", default.most_addresses),
    )


def _config(section: _Section) -> ConfigPolicy:
    default = ConfigPolicy()
    components = ("receivers", "processors", "exporters", "extensions", "connectors")
    section.knows("destinations", "paths", "storage", "listen", "environment", "most_bytes", *components)
    return ConfigPolicy(
        destinations=section.texts("destinations", default.destinations),
        paths=section.folders("paths", default.paths),
        storage=section.folders("storage", default.storage),
        listen=section.texts("listen", default.listen),
        environment=section.texts("environment", default.environment),
        most_bytes=section.number("most_bytes", default.most_bytes),
        **{name: section.texts(name, getattr(default, name)) for name in components},
    )


def _upgrade(section: _Section) -> UpgradePolicy:
    section.knows("key", "allow_older", "most_bytes", "most_unpacked_bytes")
    default = UpgradePolicy()
    key = section.value.get("key")
    if key is not None:
        try:
            key = base64.b64decode(str(key), validate=True)
        except ValueError as error:
            section.wrong(f"key is not base64: {error}")
        if len(key) != 32:
            section.wrong("key must be the 32 bytes of an Ed25519 public key in base64")
    return UpgradePolicy(
        key=key,
        allow_older=section.flag("allow_older", default.allow_older),
        most_bytes=section.number("most_bytes", default.most_bytes),
        most_unpacked_bytes=section.number("most_unpacked_bytes", default.most_unpacked_bytes),
    )


def _trusted_text(path: Path) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostPolicyError(f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as stream:
        for what, found in ((path, os.fstat(descriptor)), (path.parent, path.parent.stat())):
            if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise HostPolicyError(f"{what} must belong to root or this user, and others must not write: chmod go-w")
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise HostPolicyError(f"{path} must be a file")
        data = stream.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise HostPolicyError(f"{path} is larger than {_MOST_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise HostPolicyError(f"{path} is not UTF-8") from error
