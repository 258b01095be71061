"""Whether a collector's configuration stays within the host's policy: what it reads, sends to, opens and expands.

A configuration from afar is code: a receiver can read any file, an exporter send it anywhere, `${file:...}` put it into
an attribute, `journalctl_path` run a program. What is not understood here is refused, and the collector is given what
was understood here, written anew: two readers of YAML need not agree on a text.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from ipaddress import ip_address
from math import isfinite
from typing import Any, Final
from urllib.parse import urlsplit

from agent.host_policy import ConfigPolicy

_KINDS: Final = ("receivers", "processors", "exporters", "extensions", "connectors")
_SECTIONS: Final = {*_KINDS, "service"}
_EXPORTER_KEYS: Final = frozenset(
    {"endpoint", "logs_endpoint", "compression", "compression_params", "encoding", "headers", "timeout", "tls"}
    | {"retry_on_failure", "sending_queue", "read_buffer_size", "write_buffer_size", "idle_conn_timeout"}
    | {"max_idle_conns", "max_idle_conns_per_host", "max_conns_per_host", "disable_keep_alives"}
)
# Each of these runs a program, deletes what was read, or reads other configuration.
_FORBIDDEN_KEYS: Final = frozenset(
    {"journalctl_path", "root_path", "delete_after_read", "proxy_url", "exec", "command"}
)
_FORBIDDEN_OPERATORS: Final = frozenset({"file_output", "file_input", "stdin", "stdout", "k8s_event_input"})
# Texts in the language of operators; any other text is in it from EXPR( on.
_EXPRESSION_KEYS: Final = frozenset({"if", "expr", "is_first_entry", "is_last_entry"})
# Its functions that read variables, and all of its names ($env); a field that is called env may be named.
_READS_VARIABLES: Final = re.compile(r"""(?<![\w"'])(?<!(?<!\.)\.)(?:env|os_env_func)\b""")
_LISTEN_KEYS: Final = frozenset({"endpoint", "listen_address"})
_PATH_KEYS: Final = frozenset({"include", "exclude", "path", "directory", "files", "filename"})
_PATH_ENDINGS: Final = ("_file", "_path", "_directory")
# Where other components than exporters connect to (a resource detector asks such a place).
_CONNECT_KEYS: Final = frozenset({"endpoint", "address", "url", "host"})
_NAME: Final = re.compile(r"[a-z0-9_]{1,60}(?:/[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,59})?")
_SWITCH_KEYS: Final = frozenset({"include_file_path", "include_file_name"})
_VARIABLE: Final = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_LOOKS_LIKE_PATH: Final = re.compile(r"(?:/|~|\.\.?/|file:)")
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_MOST_DEPTH: Final = 32
_MOST_PROBLEMS: Final = 10


def check_config(text: str, policy: ConfigPolicy) -> list[str]:
    """What of the YAML text the policy does not allow, at most ten; empty when all of it is allowed."""
    document = _document(text)
    if isinstance(document, str):
        return [document]
    problems = []
    for problem in _Check(policy).problems(document):
        problems.append(problem)
        if len(problems) == _MOST_PROBLEMS:
            break
    return problems


def plain_config(text: str) -> bytes:
    """A configuration without problems as JSON, which every reader of YAML reads alike."""
    plain = json.dumps(_document(text), ensure_ascii=False, allow_nan=False, indent=1)
    # JSON lets these stand, YAML does not; they can only be inside of texts.
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", plain).encode() + b"\n"


def _document(text: str) -> dict[str, Any] | str:
    import yaml

    try:
        # An alias can write a document of any size, a tag hide a text as something else; nobody needs them here.
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MOST_DEPTH:
                return f"nested deeper than {_MOST_DEPTH}"
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
                return "aliases and tags are not allowed"
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return f"not YAML: {' '.join(str(error).split())[:200]}"
    if not isinstance(document, dict):
        return "the configuration must be a mapping"
    return document


class _Check:
    def __init__(self, policy: ConfigPolicy) -> None:
        self._policy = policy
        self._destinations = {origin for text in policy.destinations if (origin := _origin(text))}

    def problems(self, document: dict[str, Any]) -> Iterator[str]:
        for name, section in document.items():
            if name not in _SECTIONS:
                yield f"{str(name)[:60]}: only {', '.join(sorted(_SECTIONS))} are allowed"
                continue
            yield from self._values(section, (name,))
            if name == "service":
                yield from self._service(section)
                continue
            for component, config in (section or {}).items() if isinstance(section, dict) else ():
                yield from self._component(name, str(component), config)

    def _component(self, kind: str, component: str, config: Any) -> Iterator[str]:
        place = f"{kind}: {component[:60]}"
        if not _NAME.fullmatch(component):
            # It becomes part of the names of files that the component stores.
            yield f"{place}: after the type only '/' and a name of letters, digits, '-', '_' and '.' are allowed"
            return
        allowed = getattr(self._policy, kind)
        if component.split("/", 1)[0] not in allowed:
            yield f"{place}: the host's policy allows {', '.join(allowed) or 'none'}"
            return
        entries = _entries(config, (kind, component))
        if kind == "exporters":
            yield from self._exporter(place, config)
        elif kind in ("receivers", "extensions"):
            for where, key, value in entries:
                if key in _LISTEN_KEYS and isinstance(value, str) and not self._may_listen(value):
                    yield f"{': '.join(where)}: {key}: {value[:80]} is neither loopback nor in the policy's listen"
        else:
            for where, key, value in entries:
                if key in _CONNECT_KEYS and isinstance(value, str) and _origin(value) not in self._destinations:
                    yield f"{': '.join(where)}: {key}: {value[:80]} is not a destination of the host's policy"

    def _exporter(self, place: str, config: Any) -> Iterator[str]:
        if not isinstance(config, dict):
            yield f"{place}: must be a mapping"
            return
        for key, value in config.items():
            if key not in _EXPORTER_KEYS:
                yield f"{place}: {str(key)[:60]} is not allowed in an exporter"
            elif str(key).endswith("endpoint") and _origin(str(value)) not in self._destinations:
                yield f"{place}: {key}: {str(value)[:80]} is not a destination of the host's policy"
        tls = config.get("tls")
        if isinstance(tls, dict) and (tls.get("insecure_skip_verify") or tls.get("include_system_ca_certs_pool")):
            yield f"{place}: tls: certificates must be verified"

    def _service(self, section: Any) -> Iterator[str]:
        if not isinstance(section, dict) or not set(section) <= {"pipelines", "extensions", "telemetry"}:
            yield "service: only pipelines, extensions and telemetry are allowed"
            return
        for where, key, value in _entries(section.get("telemetry"), ("service", "telemetry")):
            if key in {"address", "host", "readers", "processors", "output_paths", "error_output_paths"} and value:
                yield f"{': '.join(where)}: {key} is not allowed"

    def _values(self, value: Any, place: tuple[str, ...]) -> Iterator[str]:
        """What no text anywhere may be or say."""
        if len(place) > _MOST_DEPTH:
            yield f"{place[0]}: nested deeper than {_MOST_DEPTH}"
            return
        if isinstance(value, dict):
            for key, item in value.items():
                if not isinstance(key, str):
                    yield f"{': '.join(place)}: the key {key!r} must be text"
                    continue
                yield from self._text(key, (*place, "a key"))
                if "::" in key:
                    # To the collector `a::b` is b below a, which would be judged as neither.
                    yield f"{': '.join(place)}: {key[:60]}: write what is below a key below it"
                if key in _FORBIDDEN_KEYS:
                    yield f"{': '.join(place)}: {key} is not allowed"
                if key == "type" and isinstance(item, str) and item in _FORBIDDEN_OPERATORS:
                    yield f"{': '.join(place)}: the operator {item} is not allowed"
                yield from self._values(item, (*place, key[:60]))
        elif isinstance(value, list):
            for item in value:
                yield from self._values(item, place)
        elif isinstance(value, str):
            yield from self._text(value, place)
        elif not (value is None or isinstance(value, bool | int) or (isinstance(value, float) and isfinite(value))):
            yield f"{': '.join(place)}: {str(value)[:60]} must be a number, or text in quotes"

    def _text(self, text: str, place: tuple[str, ...]) -> Iterator[str]:
        where = ": ".join(place)
        for name in _VARIABLE.findall(text):
            if name not in self._policy.environment:
                yield f"{where}: the variable {name} is not in the policy's environment"
        rest = _VARIABLE.sub("", text)
        if "$" in rest.replace("$$", "") or "$${" in rest:
            yield f"{where}: of what is expanded only ${{env:NAME}} is allowed (a $ itself is written $$)"
        expression = place[-1] in _EXPRESSION_KEYS or "EXPR(" in text
        if place[0] == "receivers" and expression and _READS_VARIABLES.search(text):
            yield f"{where}: an expression must not read variables (env): only ${{env:NAME}} is allowed"
        if _URL.match(text):
            if _origin(text) not in self._destinations:
                yield f"{where}: {text[:80]} is not a destination of the host's policy"
        elif (_is_path_key(place[-1]) or _LOOKS_LIKE_PATH.match(text)) and not self._may_use(text, place):
            yield f"{where}: {text[:80]} is outside the paths of the host's policy"

    def _may_use(self, path: str, place: tuple[str, ...]) -> bool:
        # A receiver reads; only an extension (stored offsets, a queue) writes.
        folders = self._policy.storage if place[0] == "extensions" else self._policy.paths
        if place[-1] == "a key" or "$" in path or not path.startswith("/"):
            return False
        fixed, *pattern = re.split(r"[*?\[{]", path, maxsplit=1)
        # Wherever they stand: a pattern's braces may hold them too, and a backslash may stand between them.
        if ".." in path or "\\" in path or os.path.normpath(fixed) not in (fixed.rstrip("/") or "/", fixed):
            return False
        return any(fixed.startswith(folder + "/") or (fixed == folder and not pattern) for folder in folders)

    def _may_listen(self, address: str) -> bool:
        host = address.rsplit(":", 1)[0].strip("[]")
        try:
            loopback = ip_address(host).is_loopback
        except ValueError:
            loopback = host == "localhost"
        return loopback or address in self._policy.listen


def _entries(value: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Every key and value at any depth, with its place."""
    if len(place) > _MOST_DEPTH:
        return
    if isinstance(value, dict):
        for key, item in value.items():
            yield place, str(key), item
            yield from _entries(item, (*place, str(key)[:60]))
    elif isinstance(value, list):
        for item in value:
            yield from _entries(item, place)


def _is_path_key(key: str) -> bool:
    return key in _PATH_KEYS or (key.endswith(_PATH_ENDINGS) and key not in _SWITCH_KEYS)


def _origin(url: str) -> str | None:
    """scheme://host:port of a URL, None for what is not one or names a user."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or port is None or "@" in parts.netloc:
        return None
    if not re.fullmatch(r"[A-Za-z0-9.:_-]+", parts.hostname) or "\\" in url:
        return None
    return f"{parts.scheme}://{parts.hostname.lower()}:{port}"
