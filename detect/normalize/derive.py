"""Fields that follow from other fields: the parts of an HTTP request, the program of a command line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

from detect.record import FieldValue, Outcome

Fields = dict[str, FieldValue]
Derivation = Callable[[Fields], Outcome | None]

_METHOD = re.compile(r"[A-Za-z]{1,20}").fullmatch
_MAX_DECODED: Final = 8192


def derive_request(fields: Fields) -> Outcome | None:
    """The parts of `request` (`GET /a?b HTTP/1.1`) under the names of Sigma's webserver taxonomy, and the outcome.

    SigmaHQ's webserver rules look for paths in `cs-uri-query` as often as for parameters, and servers log payloads
    percent-encoded. So `cs-uri-query` lists all that a rule may mean: the query, the whole target, and the decoded
    target where that differs; one plain string where they are all the same.
    """
    request = fields.pop("request", None)
    if isinstance(request, str) and request not in ("", "-"):
        _split_request(fields, request)
    status = fields.get("sc-status")
    if isinstance(status, str) and status.isascii() and status.isdigit() and len(status) < 10:
        fields["sc-status"] = status = int(status)
    if isinstance(status, int):
        return "success" if status < 400 else "failure"
    return None


def _split_request(fields: Fields, request: str) -> None:
    method, space, rest = request.partition(" ")
    if not space or not _METHOD(method):
        fields["cs-uri"] = fields["cs-uri-query"] = request
        return
    target, _, version = rest.rpartition(" ")
    if not version.startswith("HTTP/"):
        target, version = rest, ""
    fields["cs-method"] = method
    fields["cs-uri"] = target
    fields["cs-uri-stem"] = target.partition("?")[0]
    if version:
        fields["cs-version"] = version
    fields["cs-uri-query"] = _views(target)


def _views(target: str) -> FieldValue:
    """All that a rule on `cs-uri-query` may mean by it."""
    query = target.partition("?")[2]
    views: list[FieldValue] = [query, target] if query else [target]
    if "%" in target or "+" in query:
        decoded = unquote(target[:_MAX_DECODED].replace("+", " "))
        if decoded != target:
            views.append(decoded)
    return views[0] if len(views) == 1 else views


def derive_request_parts(fields: Fields) -> Outcome | None:
    """The same of a source that names the parts: `cs-uri-stem` and `cs-uri-query`, `cs-uri`, or a proxy's `c-uri`."""
    for name, value in (("cs-uri-query", fields.get("cs-uri-query")), ("cs-uri", fields.get("cs-uri"))):
        if value == "-":
            del fields[name]
    whole = fields.get("c-uri")
    if isinstance(whole, str) and whole:
        _split_url(fields, whole)
    target = fields.get("cs-uri")
    if not isinstance(target, str):
        stem, query = fields.get("cs-uri-stem"), fields.get("cs-uri-query")
        target = stem if isinstance(stem, str) else ""
        if isinstance(query, str) and query:
            target = f"{target}?{query.removeprefix('?')}"
        fields["cs-uri"] = target
    if not fields.get("cs-uri-stem"):
        fields["cs-uri-stem"] = target.partition("?")[0]
    fields["cs-uri-query"] = _views(target)
    return derive_request(fields)


def _split_url(fields: Fields, url: str) -> None:
    """A proxy's URL: its host, its extension, its query; `host:port` of a CONNECT."""
    _, scheme, rest = url.partition("://")
    rest = rest if scheme else url
    host, slash, path = rest.partition("/")
    host = host.rpartition("@")[2].partition(":")[0]
    if host and (scheme or not slash):
        fields.setdefault("cs-host", host)
    stem, mark, query = path.partition("?")
    if mark:
        fields.setdefault("c-uri-query", query)
    _, dot, extension = stem.rpartition("/")[2].rpartition(".")
    if dot and 0 < len(extension) <= 16:
        fields.setdefault("c-uri-extension", extension)
    fields.setdefault("cs-uri", url)
    fields.setdefault("c-uri-stem", url.partition("?")[0])


def derive_web_error(fields: Fields) -> Outcome | None:
    """The parts of the request that an error log quotes; levels from `warn` up are failures."""
    derive_request(fields)
    return "failure" if fields.get("level") in ("warn", "error", "crit", "alert", "emerg") else None


def derive_command(fields: Fields) -> Outcome | None:
    """`CommandLine` and `Image`, as Sigma's process_creation rules name them, from `COMMAND`."""
    command = fields.get("COMMAND")
    if isinstance(command, str) and (line := command.strip()):
        fields["CommandLine"] = line
        fields["Image"] = image_of(line.partition(" ")[0])
    return None


def image_of(program: str) -> str:
    """A program as rules expect it in `Image`: they test for `/name` at the end, so a bare name gets its slash."""
    return program if "/" in program else f"/{program.removeprefix('-')}"


DERIVATIONS: dict[str, Derivation] = {
    "request": derive_request,
    "request_parts": derive_request_parts,
    "command": derive_command,
    "web_error": derive_web_error,
}
