"""Making Serve's HAProxy configuration ours: nothing but loopback, and no answer that makes a sender drop its data.

Serve writes the file anew for every change of its replicas, from a template of its own that opens two ports on all
interfaces, turns the proxy's own 502, 503 and 504 into 500, and answers 404 while the application is not there yet.
A log collector takes 404 and 500 as final. What is rewritten here is a pure function of the text, and of text that was
rewritten before it changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

UNAVAILABLE_FILE = "unavailable.http"
GRPC_UNAVAILABLE_FILE = "unavailable-grpc.http"
RETRY_AFTER_S = 1

_MESSAGE = "no server of Trust SOC can answer at the moment: retry later"
# google.rpc.Status (code 14, UNAVAILABLE) with one google.rpc.RetryInfo of RETRY_AFTER_S, base64 without padding, as
# the gRPC specification wants it in grpc-status-details-bin.
_RETRY_INFO = "CA4aMAoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLlJldHJ5SW5mbxIECgIIAQ"
_ERRORS = (500, 502, 503, 504)
_HTTP_FRONTEND = "frontend http_frontend"
_GRPC_FRONTEND = "frontend grpc_frontend"
# The statistics page and the exporter; Serve itself asks the admin socket, so nobody misses them.
_CLOSED = ("frontend prometheus", "listen stats")
_SECTIONS = ("global", "defaults", "frontend", "backend", "listen")
# What a client could tell Serve with a header: a deadline that turns into a final 408, another replica, another model.
_STEERING = (
    "http-request del-header x-request-timeout-seconds",
    "http-request del-header x-request-disconnect-disabled",
    "http-request del-header x-serve-router- -m beg",
    "http-request del-header serve_multiplexed_model_id",
    "http-request del-header serve-multiplexed-model-id",
)
# A batch that has been read is stored whether its sender waits or not, and its only deadline is the sender's own:
# Serve need not watch either, which saves it two tasks a request.
_UNWATCHED = (
    "acl is_ingest path /v1/logs /ingest/logs",
    "http-request set-header x-request-timeout-seconds 0 if METH_POST is_ingest",
    "http-request set-header x-request-disconnect-disabled ?1 if METH_POST is_ingest",
)


def error_files() -> Mapping[str, str]:
    """The answers that HAProxy gives by itself, by file name: always retryable, always with a time to wait."""
    body = f'{{"code":14,"message":"{_MESSAGE}"}}'
    http = (
        "HTTP/1.1 503 Service Unavailable\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"Retry-After: {RETRY_AFTER_S}\r\n"
        "X-Trust-Soc: proxy\r\n"
        "Cache-Control: no-store\r\n"
        f"\r\n{body}"
    )
    grpc = (
        "HTTP/1.1 200 OK\r\n"
        "Content-Type: application/grpc\r\n"
        "Content-Length: 0\r\n"
        "Grpc-Status: 14\r\n"
        f"Grpc-Message: {_MESSAGE}\r\n"
        f"Grpc-Status-Details-Bin: {_RETRY_INFO}\r\n"
        "X-Trust-Soc: proxy\r\n"
        "\r\n"
    )
    return {UNAVAILABLE_FILE: http, GRPC_UNAVAILABLE_FILE: grpc}


@dataclass(frozen=True, slots=True)
class _Section:
    """A section of the file: its first line, and the lines below it as they are written."""

    head: str
    lines: tuple[str, ...]

    @property
    def grpc(self) -> bool:
        return self.head == _GRPC_FRONTEND or self.head.endswith("default_grpc_backend") or self._speaks_grpc

    @property
    def _speaks_grpc(self) -> bool:
        return self.head.startswith("backend ") and any(" proto h2" in line for line in self.lines)


def loopback_configuration(text: str, folder: str) -> str:
    """Serve's configuration as this installation runs it; the error files are in `folder`."""
    sections = [section for section in _sections(text) if section.head not in _CLOSED]
    return "\n".join(line for section in sections for line in (section.head, *_rewritten(section, folder))) + "\n"


def _sections(text: str) -> Iterator[_Section]:
    head = ""
    lines: list[str] = []
    for line in text.splitlines():
        if line.split(" ", 1)[0] in _SECTIONS:
            if head:
                yield _Section(head, tuple(lines))
            head, lines = line.strip(), []
        elif head and line.strip() and not line.lstrip().startswith("#"):
            lines.append(line)
    if head:
        yield _Section(head, tuple(lines))


def _rewritten(section: _Section, folder: str) -> list[str]:
    added = [f"    {line}" for line in _added(section, folder)]
    kept = [_CHANGES[kind](line) for line in section.lines if (kind := _kind(line)) != "drop"]
    return added + [line for line in kept if line not in added]


def _added(section: _Section, folder: str) -> list[str]:
    if section.head == "defaults":
        # Without it a connection that never finishes its header holds its place for an hour.
        return ["timeout http-request 30s", *_error_lines(f"{folder}/{UNAVAILABLE_FILE}")]
    if section.head == _HTTP_FRONTEND:
        return [*_STEERING, *_UNWATCHED]
    if section.grpc:
        return _error_lines(f"{folder}/{GRPC_UNAVAILABLE_FILE}")
    return []


def _error_lines(path: str) -> list[str]:
    return [f"errorfile {status} {path}" for status in _ERRORS]


# Access logs to a syslog of the machine, the template's error pages, and the Python proxy as a server of last resort:
# that one answers 500 when a replica dies under a request, where having no server at all is a 503.
_DROPPED = re.compile(r"log |log-format|option httplog|errorfile |server .* backup$")
# Only reached while the application is not there: for a moment at the start, or when it is taken down.
_NOT_FOUND = re.compile(r"http-request return status (404|200 content-type application/grpc hdr grpc-status 5) ")
_ADMIN_SOCKET = re.compile(r"(stats socket \S+ mode) \d+")


def _kind(line: str) -> str:
    content = line.strip()
    if _DROPPED.match(content):
        return "drop"
    if _NOT_FOUND.match(content):
        return "not found"
    return "socket" if _ADMIN_SOCKET.match(content) else "keep"


_CHANGES: Mapping[str, Callable[[str], str]] = {
    "keep": str,
    "not found": lambda _: "    http-request deny deny_status 503",
    "socket": lambda line: _ADMIN_SOCKET.sub(r"\1 600", line),
}


def public_binds(text: str) -> list[str]:
    """The bind lines that name no host, or all of them, in sections that this installation did not ask for."""
    return [
        line.strip()
        for section in _sections(text)
        if section.head not in {_HTTP_FRONTEND, _GRPC_FRONTEND}
        for line in section.lines
        if re.match(r"bind (\*|0\.0\.0\.0|\[?::\]?)?:\d", line.strip())
    ]
