"""Bodies that are objects: flattened with dots, recognised by their shape where they are a known product's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from detect.normalize.definition import EntitySpec
from detect.normalize.draft import Draft, as_json, field_value
from detect.normalize.entities import entity
from detect.record import FieldValue, Logsource

MAX_FIELDS: Final = 2048
MAX_LEVELS: Final = 24
_MESSAGE_KEYS: Final = ("message", "msg", "Message", "log", "MESSAGE", "event.original")

# Names that common loggers, OpenTelemetry's semantic conventions and ECS use for the same things.
GENERIC_ENTITIES: Final = (
    EntitySpec("user", "user", "actor"),
    EntitySpec("user", "username", "actor"),
    EntitySpec("user", "user.name", "actor"),
    EntitySpec("user", "enduser.id", "actor"),
    EntitySpec("ip", "src_ip", "source"),
    EntitySpec("ip", "client_ip", "source"),
    EntitySpec("ip", "remote_addr", "source"),
    EntitySpec("ip", "remote_ip", "source"),
    EntitySpec("ip", "client.address", "source"),
    EntitySpec("ip", "source.address", "source"),
    EntitySpec("ip", "source.ip", "source"),
    EntitySpec("ip", "dst_ip", "target"),
    EntitySpec("ip", "destination.address", "target"),
    EntitySpec("ip", "destination.ip", "target"),
    EntitySpec("ip", "id.orig_h", "source"),
    EntitySpec("ip", "id.resp_h", "target"),
    EntitySpec("process", "process.executable.name"),
    EntitySpec("process", "process.name"),
    EntitySpec("url", "url.full", "target"),
    EntitySpec("url", "url", "target"),
    EntitySpec("url", "process.command_line", "target"),
    EntitySpec("domain", "url.domain", "target"),
    EntitySpec("domain", "dns.question.name", "target"),
    EntitySpec("user_agent", "user_agent.original", "source"),
    EntitySpec("user_agent", "http.user_agent", "source"),
    EntitySpec("file", "file.path", "target"),
)
_CLOUDTRAIL_ENTITIES: Final = (
    EntitySpec("user", "userIdentity.userName", "actor"),
    EntitySpec("user", "userIdentity.arn", "actor"),
    EntitySpec("ip", "sourceIPAddress", "source"),
    EntitySpec("user_agent", "userAgent", "source"),
    EntitySpec("user", "requestParameters.userName", "target"),
)
_KUBERNETES_ENTITIES: Final = (
    EntitySpec("user", "user.username", "actor"),
    EntitySpec("user_agent", "userAgent", "source"),
)


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object that the text is; None when it is anything else."""
    try:
        value = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def flatten(value: Mapping[str, Any]) -> dict[str, FieldValue]:
    """The object with nested names joined by dots; objects inside a list give one list for each of their names.

    At most MAX_FIELDS fields; what nests deeper than MAX_LEVELS stays as its JSON text.
    """
    fields: dict[str, FieldValue] = {}
    pending: list[tuple[str, Any, int, bool]] = [(str(key), item, 1, False) for key, item in value.items()]
    pending.reverse()
    while pending and len(fields) < MAX_FIELDS:
        name, item, level, listed = pending.pop()
        if isinstance(item, dict) and item and level < MAX_LEVELS:
            pending.extend((f"{name}.{key}", part, level + 1, listed) for key, part in reversed(item.items()))
        elif isinstance(item, list) and any(isinstance(part, dict | list) for part in item) and level < MAX_LEVELS:
            pending.extend((name, part, level + 1, True) for part in reversed(item[:MAX_FIELDS]))
        elif listed:
            _append(fields, name, field_value(item))
        else:
            fields[name] = field_value(item)
    return fields


def _append(fields: dict[str, FieldValue], name: str, value: FieldValue) -> None:
    known = fields.get(name)
    if name not in fields:
        fields[name] = value if isinstance(value, list) else [value]
    elif isinstance(known, list):
        known.extend(value if isinstance(value, list) else [value])
    else:
        fields[name] = [known, value]


def message_of(fields: Mapping[str, FieldValue], body: Mapping[str, Any], line: str) -> str:
    """The line that a person would read: the object's own message, the raw line, or its compact JSON."""
    for key in _MESSAGE_KEYS:
        text = fields.get(key)
        if isinstance(text, str) and text:
            return text
    return line or as_json(body)


def read_object(body: Mapping[str, Any], line: str, draft: Draft) -> None:
    """Fills the draft from an object of any shape."""
    fields = flatten(body)
    fields.update(draft.fields)
    draft.fields = fields
    draft.message = message_of(fields, body, line)
    if isinstance(body.get("eventSource"), str) and "eventName" in body and "awsRegion" in body:
        _cloudtrail(draft)
    elif str(body.get("apiVersion", "")).startswith("audit.k8s.io") or ("auditID" in body and "verb" in body):
        _kubernetes(draft)
    else:
        draft.name = "json/generic"
        read_generic_entities(draft)


def read_generic_entities(draft: Draft) -> None:
    """Entities under the names that are common across products."""
    if not draft.fields:
        return
    for spec in GENERIC_ENTITIES:
        if spec.field in draft.fields:
            draft.mention(spec)
    for key in ("host.name", "hostname", "host"):
        host = draft.fields.get(key)
        if isinstance(host, str) and host:
            draft.host = host
            return


def _cloudtrail(draft: Draft) -> None:
    draft.name = "aws/cloudtrail"
    draft.logsource = Logsource("aws", "", "cloudtrail")
    fields = draft.fields
    name = str(fields.get("eventName", ""))
    draft.message = f"{fields.get('eventSource')} {name} by {fields.get('userIdentity.arn') or 'unknown'}"
    if name in ("ConsoleLogin", "AssumeRole", "GetSessionToken", "GetFederationToken"):
        draft.activity = "authentication"
    elif name.endswith(("User", "Role", "LoginProfile", "AccessKey", "Group")):
        draft.activity = "account"
    failed = bool(fields.get("errorCode")) or fields.get("responseElements.ConsoleLogin") == "Failure"
    draft.outcome = "failure" if failed else "success"
    for spec in _CLOUDTRAIL_ENTITIES:
        draft.mention(spec)


def _kubernetes(draft: Draft) -> None:
    draft.name = "kubernetes/audit"
    draft.logsource = Logsource("kubernetes", "application", "audit")
    fields = draft.fields
    draft.message = f"{fields.get('verb')} {fields.get('requestURI')} by {fields.get('user.username')}"
    code = fields.get("responseStatus.code")
    if isinstance(code, int):
        draft.outcome = "success" if code < 400 else "failure"
    for spec in _KUBERNETES_ENTITIES:
        draft.mention(spec)
    addresses = fields.get("sourceIPs")
    for address in addresses if isinstance(addresses, list) else ():
        if isinstance(address, str) and (found := entity("ip", address, "source")) is not None:
            draft.entities.append(found)
