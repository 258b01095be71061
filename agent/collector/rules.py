"""What a collector's configuration must have to lose nothing, show nothing and mask in time: rules of ours.

They judge a document as YAML reads it, for any build: they are all there is where no program is that could validate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from agent.collector.binary import KINDS
from agent.collector.operators import MASK_ID, SYSLOG_FIELDS
from agent.collector.profile import KEY_VARIABLE

_PARSERS: Final = frozenset({"container", "csv_parser", "json_parser", "json_array_parser", "key_value_parser"}) | {
    *("regex_parser", "scope_name_parser", "syslog_parser", "trace_parser", "uri_parser", "xml_parser"),
    *("copy", "move", "flatten", "assign_keys"),
}
"""Operators that make fields of a body, or carry text from one to another."""

_SENDERS: Final = frozenset({"otlphttp", "otlp_http"})
_SECRET_HEADER: Final = re.compile(r"authorization|token|key|secret|cookie", re.IGNORECASE)
_ONE_VARIABLE: Final = re.compile(r"(?:[A-Za-z]+ )?\$\{env:[A-Za-z_][A-Za-z0-9_]*\}")


def rule_problems(document: Any) -> list[str]:
    """What breaks a rule, each with what to change; empty when nothing does."""
    if not isinstance(document, Mapping):
        return ["the configuration must be a mapping"]
    shape = [*_shape(document)]
    if shape:
        return shape
    return [*_references(document), *_delivery(document), *_secrets(document), *_masks(document)]


def _shape(document: Mapping[str, Any]) -> Iterator[str]:
    for name in (*KINDS, "service"):
        section = document.get(name)
        if section is not None and not isinstance(section, Mapping):
            yield f"{name} must be a mapping"
        elif name != "service":
            for component, config in (section or {}).items():
                if config is not None and not isinstance(config, Mapping):
                    yield f"{name}: {component} must be a mapping"
    pipelines = _at(document, "service", "pipelines")
    if not isinstance(pipelines, Mapping) or not pipelines:
        yield "service: pipelines: there is none"
        return
    for name, pipeline in pipelines.items():
        parts = pipeline if isinstance(pipeline, Mapping) else {}
        for kind in ("receivers", "processors", "exporters"):
            if not _is_names(parts.get(kind, [])) or (kind != "processors" and not parts.get(kind)):
                yield f"service: pipelines: {name}: {kind} must be a list that names at least one"
    if not _is_names(_at(document, "service", "extensions") or []):
        yield "service: extensions must be a list of names"


def _references(document: Mapping[str, Any]) -> Iterator[str]:
    defined = {kind: set(document.get(kind) or {}) for kind in KINDS}
    for name, pipeline in document["service"]["pipelines"].items():
        for kind in ("receivers", "processors", "exporters"):
            for component in pipeline.get(kind, []):
                if component not in defined[kind] and component not in defined["connectors"]:
                    yield f"service: pipelines: {name}: {component} is not defined in {kind}"
    running = set(_at(document, "service", "extensions") or [])
    for name in sorted(running - defined["extensions"]):
        yield f"service: extensions: {name} is not defined"
    for kind in ("receivers", "exporters"):
        for component, config in (document.get(kind) or {}).items():
            for storage in (_at(config, "storage"), _at(config, "sending_queue", "storage")):
                if storage is not None and str(storage) not in running:
                    yield f"{kind}: {component}: storage: {storage} is not among service: extensions"
            ids = [str(operator["id"]) for operator in _operators(config) if "id" in operator]
            for double in sorted({entry for entry in ids if ids.count(entry) > 1}):
                yield f"{kind}: {component}: operators: two have the id {double}"


def _delivery(document: Mapping[str, Any]) -> Iterator[str]:
    for component, config in (document.get("receivers") or {}).items():
        if _type(component) in {"filelog", "file_log", "journald", "syslog"}:
            yield from _endless(f"receivers: {component}", config)
    for component, config in (document.get("exporters") or {}).items():
        yield from _exporter(f"exporters: {component}", _type(component), config)
    for name, pipeline in document["service"]["pipelines"].items():
        place, processors = f"service: pipelines: {name}", [_type(entry) for entry in pipeline.get("processors", [])]
        if "batch" in processors:
            yield f"{place}: batch says that it has what a kill then loses: batch in the exporter's sending_queue"
        if "memory_limiter" not in processors[:1]:
            yield f"{place}: memory_limiter must be the first processor"
    if _at(document, "service", "telemetry", "metrics", "level") != "none":
        yield "service: telemetry: metrics: level must be none: any other opens a port"


def _exporter(place: str, kind: str, config: Any) -> Iterator[str]:
    if kind not in _SENDERS:
        yield f"{place}: records go to the forwarder of this host alone, by otlphttp"
        return
    for key in ("endpoint", "logs_endpoint"):
        url = _at(config, key)
        if url is not None and not _is_local(str(url)):
            yield f"{place}: {key}: {str(url)[:80]} is no loopback address: only the forwarder signs and masks"
    yield from _endless(place, config)
    queue = _at(config, "sending_queue")
    waits = not isinstance(queue, Mapping) or queue.get("enabled", True)
    if waits and not _at(queue, "block_on_overflow"):
        yield f"{place}: sending_queue: set block_on_overflow to true: a full queue drops what comes"


def _endless(place: str, config: Any) -> Iterator[str]:
    retry = _at(config, "retry_on_failure") or {}
    if not (_at(retry, "enabled") is True and str(_at(retry, "max_elapsed_time")) in {"0", "0s"}):
        yield f"{place}: retry_on_failure: set enabled to true and max_elapsed_time to 0s: else it gives records up"


def _secrets(document: Mapping[str, Any]) -> Iterator[str]:
    for component, config in (document.get("exporters") or {}).items():
        headers = _at(config, "headers")
        for name, value in headers.items() if isinstance(headers, Mapping) else ():
            if _SECRET_HEADER.search(str(name)) and not _ONE_VARIABLE.fullmatch(str(value)):
                yield f"exporters: {component}: headers: {name} must come from the environment: ${{env:{KEY_VARIABLE}}}"


def _masks(document: Mapping[str, Any]) -> Iterator[str]:
    masked = {
        name: config
        for name, config in (document.get("receivers") or {}).items()
        if any(str(operator.get("id")).startswith(MASK_ID) for operator in _operators(config))
    }
    for component in document.get("receivers") or {}:
        if masked and component not in masked:
            yield f"receivers: {component}: other receivers mask, this one does not"
    for component, config in masked.items():
        yield from _in_time(f"receivers: {component}", _type(component), _operators(config))


def _in_time(place: str, kind: str, operators: list[Mapping[str, Any]]) -> Iterator[str]:
    """Whether the masks of a receiver come before what copies text, or what it copied is thrown away."""
    first = next(n for n, operator in enumerate(operators) if str(operator.get("id")).startswith(MASK_ID))
    for operator in operators[:first]:
        if str(operator.get("type")) in _PARSERS:
            yield f"{place}: {operator['type']} comes before the masks: its fields stay clear"
    if kind in {"syslog", "journald"}:
        kept = {field for entry in operators if entry.get("type") == "retain" for field in _names(entry.get("fields"))}
        if not kept or (kind == "syslog" and not kept <= set(SYSLOG_FIELDS)):
            yield f"{place}: it parses by itself: keep (retain) only fields that are masked or numbers"


def _operators(config: Any) -> list[Mapping[str, Any]]:
    found = _at(config, "operators")
    return [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _names(value: Any) -> list[str]:
    return [str(entry) for entry in value] if isinstance(value, list) else []


def _at(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _type(component: Any) -> str:
    return str(component).split("/", 1)[0]


def _is_local(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
