"""What the collector of a host reads and how it hands it to the forwarder; and what would be wrong with that."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

KEY_VARIABLE: Final = "TRUSTSOC_INGEST_KEY"
"""The environment variable that holds the forwarder's local token; no configuration holds it."""

Build: TypeAlias = Literal["contrib", "small"]
"""`contrib` is otelcol-contrib; `small` is the wheel's, which reads files and stores nothing."""

Queue: TypeAlias = Literal["disk", "memory", "none"]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
# What Go's regular expressions (RE2) have not got.
_NOT_RE2: Final = re.compile(r"\(\?(?:=|!|<=|<!|>|P=|\()|(?<!\\)(?:\\\\)*\\[1-9]|[*+?}]\+")
_GROUP: Final = re.compile(r"\$(\w+|\{[^}]*\})?", re.ASCII)
_PRIORITIES: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


@dataclass(frozen=True, slots=True)
class Mask:
    """Every match of the pattern (RE2) becomes the replacement, in which $1 is the first group."""

    name: str
    pattern: str
    replacement: str = "[masked]"


SECRET_MASKS: Final = (
    Mask(
        "private-key",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:\\[nr]|[A-Za-z0-9+/=\s])*(?:-----END [A-Z ]*PRIVATE KEY-----)?",
        "[masked private key]",
    ),
    Mask(
        "authorization",
        r"""(?i)(authorization["']?\s*[:=]\s*["']?(?:bearer|basic|token)\s+)[A-Za-z0-9._~+/=-]+""",
        "$1[masked]",
    ),
    Mask("jwt", r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*", "[masked]"),
    Mask("url-password", r"""(://[^/\s:@"'\\]+:)[^/\s@"'\\]+@""", "$1[masked]@"),
    Mask(
        "secret",
        r"(?i)((?:password|passwd|secret|token|api[_-]?key|access[_-]?key|client[_-]?secret)"
        r"""\\?["']?\s*[=:]\s*\\?["']?)[^\s"'&,;\\\[\]]+""",
        "$1[masked]",
    ),
)
"""Credentials. No match spans a quote, so that a line of JSON stays one. (Not `pwd`: sudo names a folder so.)"""


@dataclass(frozen=True, slots=True)
class FileSource:
    """Files by path or glob. With `rotated` the copies that logrotate makes are read to their end as well, which
    copytruncate needs; `multiline_start` (RE2) matches the first line of an entry of several."""

    name: str
    include: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    start_at: Literal["beginning", "end"] = "end"
    rotated: bool = True
    multiline_start: str = ""
    encoding: str = "utf-8"


@dataclass(frozen=True, slots=True)
class JournalSource:
    """The journal of systemd, all of it or some units, from a priority upwards."""

    name: str = "journal"
    units: tuple[str, ...] = ()
    directory: str = ""
    priority: str = "info"
    start_at: Literal["beginning", "end"] = "end"


@dataclass(frozen=True, slots=True)
class SyslogSource:
    """Syslog of other programs and devices. `listen` is ADDRESS:PORT; any address but a loopback one needs `remote`.

    `location` is the time zone of RFC 3164 stamps; `octet_counting` is the framing of RFC 6587, for RFC 5424 by TCP.
    """

    name: str
    listen: str
    protocol: Literal["rfc3164", "rfc5424"] = "rfc5424"
    transport: Literal["tcp", "udp"] = "tcp"
    location: str = "UTC"
    octet_counting: bool = False
    remote: bool = False


@dataclass(frozen=True, slots=True)
class ContainerSource:
    """Logs of containers in the forms of Docker, CRI-O and containerd; without `format` each line tells its own."""

    name: str = "containers"
    include: tuple[str, ...] = ("/var/log/pods/*/*/*.log",)
    exclude: tuple[str, ...] = ()
    start_at: Literal["beginning", "end"] = "end"
    format: Literal["", "docker", "crio", "containerd"] = ""
    multiline_start: str = ""


Source: TypeAlias = FileSource | JournalSource | SyslogSource | ContainerSource


@dataclass(frozen=True, slots=True)
class HostProfile:
    """All of a host. `queue` says where records wait that the forwarder has not taken yet:

    - `disk`: below `storage`, at most `queue_bytes`; it holds what the forwarder has not masked yet
    - `memory`: the same in memory, lost when the collector is killed
    - `none`: nowhere, the source itself is read no further; with it nothing that the forwarder masks touches the disk

    `storage` also holds the offsets (of builds that store any), which are no log text but for the first 1000 bytes of
    each file, by which it is known again.
    """

    host_name: str
    sources: tuple[Source, ...]
    masks: tuple[Mask, ...] = SECRET_MASKS
    endpoint: str = "http://127.0.0.1:4319"
    queue: Queue = "disk"
    queue_bytes: int = 1 << 30
    storage: str = "/var/lib/trustsoc-agent/collector"
    batch_bytes: int = 4 << 20
    batch_milliseconds: int = 200
    poll_milliseconds: int = 200
    memory_limit_mib: int = 256


def profile_problems(profile: HostProfile, build: Build) -> list[str]:
    """What is wrong with the profile, or beyond the build, each with what to change; empty when nothing is."""
    return [*_whole(profile, build), *(p for s in profile.sources for p in _source(s, build)), *_masks(profile)]


def _whole(profile: HostProfile, build: Build) -> Iterator[str]:
    if not profile.host_name.strip():
        yield "host_name is empty: name this host"
    if not profile.sources:
        yield "there is no source: name files, containers, journal or syslog"
    names = [source.name for source in profile.sources]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{name}: two sources have this name"
    if not _is_local_origin(profile.endpoint):
        yield f"endpoint: {profile.endpoint[:80]} must be http://127.0.0.1:PORT, the forwarder of this host"
    if build == "small" and profile.queue == "disk":
        yield "queue: the small build stores nothing: set memory or none"
    if not profile.storage.startswith("/") or ".." in profile.storage:
        yield "storage must be an absolute path without '..'"
    # The forwarder takes bodies up to 16 MiB as sent and 32 MiB unpacked; one record may be as large as a batch.
    if not 1 << 20 <= profile.batch_bytes <= 8 << 20:
        yield "batch_bytes must be 1 MiB to 8 MiB: the forwarder refuses larger bodies, and the collector drops them"
    if profile.queue_bytes < 4 * profile.batch_bytes:
        yield "queue_bytes must be at least four times batch_bytes"
    if min(profile.batch_milliseconds, profile.poll_milliseconds) < 10:
        yield "batch_milliseconds and poll_milliseconds must be at least 10"
    if profile.memory_limit_mib < 64:
        yield "memory_limit_mib must be at least 64"


def _source(source: Source, build: Build) -> Iterator[str]:
    place = source.name[:60]
    if not _NAME.fullmatch(source.name):
        yield f"{place!r}: a name has small letters, digits and '-', at most 40"
    if build == "small" and isinstance(source, JournalSource | SyslogSource):
        yield f"{place}: the small build reads files only: use otelcol-contrib, or leave it away"
    if isinstance(source, FileSource | ContainerSource):
        if not source.include:
            yield f"{place}: include is empty: name at least one file"
        for path in (*source.include, *source.exclude):
            if not path.startswith("/") or ".." in path:
                yield f"{place}: {path[:80]} must be an absolute path without '..'"
        if source.multiline_start:
            yield from _pattern(f"{place}: multiline_start", source.multiline_start)
    elif isinstance(source, JournalSource):
        if source.priority not in _PRIORITIES:
            yield f"{place}: priority must be one of {', '.join(_PRIORITIES)}"
        if source.directory and (not source.directory.startswith("/") or ".." in source.directory):
            yield f"{place}: directory must be an absolute path without '..'"
    else:
        yield from _syslog(source, place)


def _syslog(source: SyslogSource, place: str) -> Iterator[str]:
    host, _, port = source.listen.rpartition(":")
    try:
        local = ip_address(host.strip("[]")).is_loopback
    except ValueError:
        yield f"{place}: listen: {source.listen[:80]} must be ADDRESS:PORT, the address in numbers"
        return
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        yield f"{place}: listen: {source.listen[:80]} has no port from 1 to 65535"
    if not local and not source.remote:
        yield f"{place}: listen: {host} is no loopback address: set remote to true if other hosts shall send here"
    if source.octet_counting and (source.protocol, source.transport) != ("rfc5424", "tcp"):
        yield f"{place}: octet_counting is for rfc5424 by tcp only"


def _masks(profile: HostProfile) -> Iterator[str]:
    names = [mask.name for mask in profile.masks]
    for mask in profile.masks:
        place = f"mask {mask.name[:60]}"
        if not _NAME.fullmatch(mask.name) or names.count(mask.name) > 1:
            yield f"{place}: a name of its own is needed, of small letters, digits and '-', at most 40"
        wrong = list(_pattern(place, mask.pattern))
        yield from wrong
        if wrong:
            continue
        compiled = re.compile(mask.pattern)
        if compiled.search(""):
            yield f"{place}: the pattern matches an empty text, so it would match everywhere"
        for found in _GROUP.finditer(mask.replacement):
            number = found[1] or ""
            if not number.isdigit() or int(number) > compiled.groups:
                yield f"{place}: {found[0]!r} in the replacement is not one of its {compiled.groups} groups"


def _pattern(place: str, pattern: str) -> Iterator[str]:
    beyond = _NOT_RE2.search(pattern)
    if beyond:
        yield f"{place}: {beyond[0]!r} is not of RE2, which the collector reads"
        return
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        yield f"{place}: {error}"


def _is_local_origin(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, port = ip_address(parts.hostname or ""), parts.port
    except ValueError:
        return False
    plain = parts.scheme == "http" and parts.path in {"", "/"} and not parts.query and "@" not in parts.netloc
    return plain and host.is_loopback and port is not None
