"""Renders a host's profile as the collector's configuration."""

from __future__ import annotations

from typing import Any, Final

import yaml

from agent.collector.expansion import literal
from agent.collector.operators import container_operators, journal_operators, masking, syslog_operators
from agent.collector.profile import (
    KEY_VARIABLE,
    Build,
    ContainerSource,
    FileSource,
    HostProfile,
    JournalSource,
    Source,
    SyslogSource,
    profile_problems,
)

OFFSETS: Final = "file_storage/offsets"
QUEUE: Final = "file_storage/queue"
_PACKED: Final = ("gz", "xz", "bz2", "zst")
_ENDLESS: Final = {"enabled": True, "initial_interval": "500ms", "max_interval": "10s", "max_elapsed_time": "0s"}
# Without a queue up to 100 entries are one request, and the forwarder unpacks at most 32 MiB.
_ENTRY: Final = {"disk": "1MiB", "memory": "1MiB", "none": "256KiB"}


class ProfileError(ValueError):
    """The profile cannot be rendered; `problems` say why, each with what to change."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def render_host_profile(profile: HostProfile, build: Build = "contrib") -> str:
    """The configuration as YAML, without a secret in it. Raises ProfileError."""
    problems = profile_problems(profile, build)
    if problems:
        raise ProfileError(problems)
    storing = build == "contrib"
    receivers = {_receiver_id(source): _receiver(source, profile, storing) for source in profile.sources}
    extensions = _extensions(profile) if storing else {}
    service: dict[str, Any] = {
        # The collector would otherwise open a port for its own metrics.
        "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "info"}},
        "pipelines": {
            "logs": {"receivers": list(receivers), "processors": ["memory_limiter"], "exporters": ["otlphttp"]}
        },
    }
    document: dict[str, Any] = {
        "receivers": receivers,
        # Not the batch processor: it says that it has what a kill then loses. The queue makes the batches.
        "processors": {"memory_limiter": {"check_interval": "1s", "limit_mib": profile.memory_limit_mib}},
        "exporters": {"otlphttp": _exporter(profile)},
        "service": service,
    }
    if extensions:
        document["extensions"] = extensions
        service["extensions"] = list(extensions)
    return yaml.dump(document, Dumper=_NoAliases, sort_keys=False, allow_unicode=True, width=110)


class _NoAliases(yaml.SafeDumper):
    """What the host's policy reads has no aliases in it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _receiver_id(source: Source) -> str:
    match source:
        case FileSource() | ContainerSource():
            return f"filelog/{source.name}"
        case JournalSource():
            return f"journald/{source.name}"
        case SyslogSource():
            return f"syslog/{source.name}"


def _receiver(source: Source, profile: HostProfile, storing: bool) -> dict[str, Any]:
    storage = {"storage": OFFSETS} if storing else {}
    common = {"resource": {"host.name": literal(profile.host_name)}, "retry_on_failure": dict(_ENDLESS)}
    match source:
        case FileSource():
            own = _files(source, profile) | storage
            if source.multiline_start:
                own["multiline"] = {"line_start_pattern": literal(source.multiline_start)}
            operators = masking(profile.masks)
        case ContainerSource():
            own = _files(source, profile) | storage
            operators = container_operators(source, profile.masks)
        case JournalSource():
            own = _journal(source) | storage
            operators = journal_operators(profile.masks)
        case SyslogSource():
            own = _syslog(source)
            operators = syslog_operators(source, profile.masks)
    return own | common | ({"operators": operators} if operators else {})


def _files(source: FileSource | ContainerSource, profile: HostProfile) -> dict[str, Any]:
    include, exclude = list(source.include), list(source.exclude)
    if isinstance(source, FileSource) and source.rotated:
        # app.log.1 and app.log-20260301, but not what was packed: that is other bytes of lines that were read.
        include += [f"{path}{end}" for path in source.include for end in (".[0-9]*", "-[0-9]*")]
        exclude += [f"{path}*.{packed}" for path in source.include for packed in _PACKED]
    own: dict[str, Any] = {"include": [literal(path) for path in include]}
    if exclude:
        own["exclude"] = [literal(path) for path in exclude]
    own |= {
        "start_at": source.start_at,
        "include_file_name": True,
        "include_file_path": True,
        "poll_interval": f"{profile.poll_milliseconds}ms",
        "max_log_size": _ENTRY[profile.queue],
        "preserve_leading_whitespaces": True,
    }
    if isinstance(source, FileSource) and source.encoding != "utf-8":
        own["encoding"] = literal(source.encoding)
    return own


def _journal(source: JournalSource) -> dict[str, Any]:
    own: dict[str, Any] = {"start_at": source.start_at, "priority": source.priority, "convert_message_bytes": True}
    if source.units:
        own["units"] = [literal(unit) for unit in source.units]
    if source.directory:
        own["directory"] = literal(source.directory)
    return own


def _syslog(source: SyslogSource) -> dict[str, Any]:
    own: dict[str, Any] = {"protocol": source.protocol, source.transport: {"listen_address": source.listen}}
    if source.protocol == "rfc3164":
        own["location"] = literal(source.location)
    if source.octet_counting:
        own["enable_octet_counting"] = True
    return own


def _exporter(profile: HostProfile) -> dict[str, Any]:
    queue: dict[str, Any] = {"enabled": False}
    if profile.queue != "none":
        queue = {
            "enabled": True,
            # One consumer keeps the order. A full queue holds the sources back instead of dropping.
            "num_consumers": 1,
            "block_on_overflow": True,
            "sizer": "bytes",
            "queue_size": profile.queue_bytes,
            "batch": {
                "flush_timeout": f"{profile.batch_milliseconds}ms",
                "sizer": "bytes",
                "min_size": profile.batch_bytes // 4,
                "max_size": profile.batch_bytes,
            },
        }
        if profile.queue == "disk":
            queue["storage"] = QUEUE
    return {
        "logs_endpoint": f"{literal(profile.endpoint.rstrip('/'))}/v1/logs",
        "compression": "gzip",
        "timeout": "60s",
        "headers": {"Authorization": f"Bearer ${{env:{KEY_VARIABLE}}}"},
        "retry_on_failure": dict(_ENDLESS),
        "sending_queue": queue,
    }


def _extensions(profile: HostProfile) -> dict[str, Any]:
    folder = literal(profile.storage.rstrip("/"))

    def storage(name: str) -> dict[str, Any]:
        return {"directory": f"{folder}/{name}", "create_directory": True, "fsync": True}

    extensions: dict[str, Any] = {OFFSETS: storage("offsets")}
    if profile.queue == "disk":
        # The file of a queue does not shrink by itself after an outage.
        compaction = {"directory": f"{folder}/queue", "on_rebound": True, "cleanup_on_start": True}
        extensions[QUEUE] = storage("queue") | {"compaction": compaction}
    return extensions
