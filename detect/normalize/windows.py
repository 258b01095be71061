"""Windows events as JSON, in the shapes that exporters give them, under the field names that Sigma's rules use.

Known shapes: `Event.System/EventData/UserData` with `#attributes` (EVTX converters), flat events, the OpenTelemetry
collector's windowseventlog receiver, Winlogbeat's `winlog`, and Log Analytics exports with EventData as XML.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any, Final

from detect.normalize.definition import Definition
from detect.normalize.draft import Draft, field_value
from detect.normalize.entities import canonical_ip, entity, url_entities
from detect.record import EntityKind, EntityRole, FieldValue, Logsource, Outcome

_XML_DATA = re.compile(r"<Data Name=[\"']([^\"'<>]{1,256})[\"']\s?>([^<]*)</Data>")
_DIGITS = re.compile(r"\d{1,9}").fullmatch
_FLAT_SIGNS: Final = ("Channel", "SourceName", "Provider_Name", "ProviderName", "Computer", "Hostname")
_HASHES: Final = {"MD5": "md5", "SHA1": "sha1", "SHA256": "sha256", "IMPHASH": "Imphash"}
_SYSTEM_FIELDS: Final = ("Channel", "Computer", "Level", "Task", "Opcode", "Keywords", "EventRecordID")
_MESSAGE_LIMIT: Final = 4096

_ENTITY_FIELDS: Final[tuple[tuple[str, EntityKind, EntityRole], ...]] = (
    ("SubjectUserName", "user", "actor"),
    ("User", "user", "actor"),
    ("TargetUserName", "user", "target"),
    ("IpAddress", "ip", "source"),
    ("SourceIp", "ip", "source"),
    ("SourceAddress", "ip", "source"),
    ("ClientAddress", "ip", "source"),
    ("DestinationIp", "ip", "target"),
    ("DestAddress", "ip", "target"),
    ("Image", "process", ""),
    ("SourceImage", "process", ""),
    ("TargetImage", "process", "target"),
    ("TargetFilename", "file", "target"),
    ("QueryName", "domain", "target"),
    ("DestinationHostname", "domain", "target"),
    ("md5", "hash", ""),
    ("sha1", "hash", ""),
    ("sha256", "hash", ""),
    ("CommandLine", "url", "target"),
    ("ScriptBlockText", "url", "target"),
)


class WindowsParser:
    """Reads Windows events; channels, categories and classes come from the definition file."""

    def __init__(self, definition: Definition) -> None:
        self._channels = definition.channels
        self._categories = definition.categories
        self._activities = definition.activities

    def read(self, body: Mapping[str, Any], draft: Draft) -> bool:
        """Fills the draft from a Windows event; False when the object is none."""
        fields = _event_fields(body)
        if fields is None:
            return False
        fields.update(draft.fields)
        draft.fields = fields
        number = _event_number(fields)
        channel = str(fields.get("Channel", "")).lower()
        service = self._channels.get(channel, "")
        key = f"{service}/{number}"
        category = self._category(key, fields)
        draft.name = f"windows/{service or 'other'}"
        draft.logsource = Logsource("windows", category, service)
        draft.activity = self._activities.get(key, "other")
        draft.outcome = _outcome(fields)
        draft.host = str(fields.get("Computer", ""))
        _alias(category, service, fields)
        _entities(draft)
        draft.message = _message(fields, service, number)
        return True

    def _category(self, key: str, fields: Mapping[str, FieldValue]) -> str:
        category = self._categories.get(key, "")
        if category == "registry_event":
            return self._categories.get(f"{key}/{fields.get('EventType')}".lower(), category)
        return category


def _event_fields(body: Mapping[str, Any]) -> dict[str, FieldValue] | None:
    event = body.get("Event")
    if isinstance(event, dict) and isinstance(event.get("System"), dict):
        return _nested(event)
    if isinstance(body.get("System"), dict) and "EventID" in body["System"]:
        return _nested(body)
    winlog = body.get("winlog")
    if isinstance(winlog, dict) and "event_id" in winlog:
        return _shipped(winlog, body.get("message"))
    if "event_id" in body and isinstance(body.get("channel"), str):
        return _shipped(body, body.get("message"))
    if "EventID" in body and any(name in body for name in _FLAT_SIGNS):
        return _flat(body)
    return None


def _nested(event: Mapping[str, Any]) -> dict[str, FieldValue]:
    system = event["System"]
    fields: dict[str, FieldValue] = {}
    for name in _SYSTEM_FIELDS:
        if system.get(name) is not None:
            fields[name] = field_value(_text_of(system[name]))
    fields["EventID"] = field_value(_text_of(system.get("EventID")))
    provider = system.get("Provider")
    if isinstance(provider, dict):
        attributes = provider.get("#attributes", provider)
        named = attributes.get("Name", attributes.get("@Name")) if isinstance(attributes, dict) else None
        fields["Provider_Name"] = field_value(named)
    _data(event.get("EventData"), fields)
    user_data = event.get("UserData")
    for part in user_data.values() if isinstance(user_data, dict) else ():
        _data(part, fields)
    for name, part in event.items():
        if name not in ("System", "EventData", "UserData", "#attributes", "RenderingInfo"):
            _data(part, fields)
    return fields


def _data(data: Any, fields: dict[str, FieldValue]) -> None:
    """Event data in any of its spellings, under names without spaces."""
    if isinstance(data, str):
        for name, text in _XML_DATA.findall(data[:65536]):
            fields[name.replace(" ", "")] = html.unescape(text)
    if not isinstance(data, dict):
        return
    for name, value in data.items():
        if name == "#attributes" or name.startswith("@"):
            continue
        if name == "Data" and isinstance(value, list):
            _named_data(value, fields)
        else:
            key = name.replace(" ", "") if " " in name else name
            fields[key] = value if isinstance(value, str) else field_value(_text_of(value))


def _named_data(items: list[Any], fields: dict[str, FieldValue]) -> None:
    unnamed: list[Any] = []
    for item in items:
        attributes = item.get("#attributes", item) if isinstance(item, dict) else {}
        name = attributes.get("Name", attributes.get("@Name")) if isinstance(attributes, dict) else None
        if isinstance(name, str):
            fields[name.replace(" ", "")] = field_value(_text_of(item))
        else:
            unnamed.append(field_value(_text_of(item)))
    if unnamed:
        fields["Data"] = unnamed


def _text_of(value: Any) -> Any:
    """An XML element's text, where a converter kept its attributes beside it."""
    if isinstance(value, dict) and ("#text" in value or "#attributes" in value):
        return value.get("#text")
    return value


def _shipped(event: Mapping[str, Any], message: Any) -> dict[str, FieldValue]:
    number = event.get("event_id")
    provider = event.get("provider")
    fields: dict[str, FieldValue] = {
        "EventID": field_value(number.get("id") if isinstance(number, dict) else number),
        "Channel": field_value(event.get("channel")),
        "Computer": field_value(event.get("computer", event.get("computer_name"))),
        "Provider_Name": field_value(
            provider.get("name") if isinstance(provider, dict) else event.get("provider_name", provider)
        ),
    }
    if event.get("keywords") is not None:
        fields["Keywords"] = field_value(event["keywords"])
    if isinstance(message, str):
        fields["Message"] = message
    data = event.get("event_data")
    _data(data, fields)
    if isinstance(data, dict) and isinstance(data.get("data"), list):
        for item in data["data"]:
            if isinstance(item, dict):
                _data(item, fields)
    user_data = event.get("user_data")
    _data(user_data, fields)
    return fields


def _flat(body: Mapping[str, Any]) -> dict[str, FieldValue]:
    fields: dict[str, FieldValue] = {}
    for name, value in body.items():
        key = name.replace(" ", "") if " " in name else name
        if value is None or isinstance(value, str | int | float):
            fields[key] = value
        elif name not in ("EventData", "UserData"):
            fields[key] = field_value(_text_of(value))
    _data(body.get("EventData"), fields)
    _data(body.get("UserData"), fields)
    for name, others in (("Provider_Name", ("ProviderName", "SourceName")), ("Computer", ("Hostname",))):
        if not fields.get(name):
            found = next((fields[other] for other in others if fields.get(other)), None)
            if found is not None:
                fields[name] = found
    return fields


def _event_number(fields: dict[str, FieldValue]) -> FieldValue:
    number = fields.get("EventID")
    if isinstance(number, str) and _DIGITS(number):
        fields["EventID"] = number = int(number)
    return number


def _outcome(fields: Mapping[str, FieldValue]) -> Outcome:
    """The audit keywords: bit 52 stands for failure, bit 53 for success."""
    keywords = fields.get("Keywords")
    if isinstance(keywords, list):
        keywords = " ".join(map(str, keywords))
    if isinstance(keywords, str):
        if "audit failure" in keywords.lower():
            return "failure"
        if "audit success" in keywords.lower():
            return "success"
        try:
            keywords = int(keywords, 0)
        except ValueError:
            return "unknown"
    if isinstance(keywords, int):
        return "failure" if keywords >> 52 & 1 else "success" if keywords >> 53 & 1 else "unknown"
    return "unknown"


def _alias(category: str, service: str, fields: dict[str, FieldValue]) -> None:
    """Names that Sigma uses for a category whatever the source calls them."""
    if category == "process_creation" and service == "security":
        for alias, name in (("Image", "NewProcessName"), ("ParentImage", "ParentProcessName")):
            if name in fields:
                fields.setdefault(alias, fields[name])
    elif category == "antivirus":
        for alias, name in (("Signature", "ThreatName"), ("Filename", "Path")):
            if name in fields:
                fields.setdefault(alias, fields[name])
    hashes = fields.get("Hashes") or fields.get("Hash")
    if isinstance(hashes, str) and "=" in hashes:
        for part in hashes[:1024].split(","):
            name, _, digest = part.partition("=")
            if alias := _HASHES.get(name.strip().upper(), ""):
                fields.setdefault(alias, digest.strip())


def _entities(draft: Draft) -> None:
    fields = draft.fields
    for name, kind, role in _ENTITY_FIELDS:
        if name not in fields:
            continue
        value = fields[name]
        if not isinstance(value, str) or not value or (kind == "domain" and canonical_ip(value)):
            continue
        if kind == "url":
            draft.entities.extend(url_entities(value, role))
            continue
        if kind == "user":
            value = value.rpartition("\\")[2].lower()
        found = entity(kind, value, role)
        if found is not None:
            draft.entities.append(found)


def _message(fields: Mapping[str, FieldValue], service: str, number: FieldValue) -> str:
    """The event's own message, or all its values on one line."""
    text = fields.get("Message")
    if isinstance(text, str) and text:
        return text
    parts = [f"{fields.get('Provider_Name') or service or 'Windows'} {number}:"]
    length = 0
    for name, value in fields.items():
        if name in ("EventID", "Provider_Name") or value in (None, ""):
            continue
        part = f"{name}={value}"[:1024]
        length += len(part) + 1
        if length > _MESSAGE_LIMIT:
            break
        parts.append(part)
    return " ".join(parts)
