"""The shapes in which exporters hand over Windows events, each read into one flat map under the events' own names.

Known shapes: `Event.System/EventData/UserData` with `#attributes` (EVTX converters) or in XML, flat events, the
OpenTelemetry collector's windowseventlog receiver, Winlogbeat's `winlog` (nested, or with dots in its names).
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any, Final

from detect.normalize.draft import field_value
from detect.record import FieldValue

MAX_XML: Final = 1 << 18
_XML_DATA = re.compile(r"<Data Name=[\"']([^\"'<>]{1,256})[\"']\s?>([^<]*)</Data>")
_XML_EVENT = re.compile(r"\s{0,64}(?:<\?xml[^>]{0,128}\?>\s{0,64})?<Event(?:\s[^>]{0,256})?>")
_XML_TEXT = re.compile(
    r"<(EventID|Channel|Computer|Level|Task|Opcode|Keywords|EventRecordID)(?:\s[^>]{0,256})?>([^<]*)<"
)
_XML_PROVIDER = re.compile(r"<Provider\s[^>]{0,256}?\bName=[\"']([^\"'<>]{1,256})[\"']")
_XML_UNNAMED = re.compile(r"<Data>([^<]*)</Data>")
_XML_USER_DATA = re.compile(r"<([A-Za-z_][\w.-]{0,127})(?:\s[^<>]{0,512})?>([^<]*)</\1>")
SYSTEM_FIELDS: Final = ("Channel", "Computer", "Level", "Task", "Opcode", "Keywords", "EventRecordID")
_FLAT_SIGNS: Final = frozenset(
    {"Channel", "SourceName", "Provider_Name", "ProviderName", "Computer", "Hostname", "LogName", "EventLog"}
)
_FLAT_OTHERS: Final = (("EventID", ("EventCode",)), ("Channel", ("LogName", "EventLog", "log_name")))
_SHIPPED_NAMES: Final = {
    "channel": "Channel",
    "level": "Level",
    "task": "Task",
    "opcode": "Opcode",
    "keywords": "Keywords",
    "record_id": "EventRecordID",
}

Fields = dict[str, FieldValue]


def read_shape(body: Mapping[str, Any]) -> Fields | None:
    """The event's fields; None when the object is no Windows event."""
    event = body.get("Event")
    if isinstance(event, dict) and isinstance(event.get("System"), dict):
        return _nested(event)
    if isinstance(body.get("System"), dict) and "EventID" in body["System"]:
        return _nested(body)
    winlog = body.get("winlog")
    if isinstance(winlog, dict) and "event_id" in winlog:
        return _shipped(winlog, body)
    if "event_id" in body and isinstance(body.get("channel"), str):
        return _shipped(body, body)
    if "winlog.event_id" in body:
        return _shipped(_undotted(body), body)
    if "Event.System.EventID" in body or "Event.System.EventID.#text" in body:
        return _flattened(body)
    if ("EventID" in body or "EventCode" in body) and not _FLAT_SIGNS.isdisjoint(body):
        return _flat(body)
    return None


def _nested(event: Mapping[str, Any]) -> Fields:
    system = event["System"]
    fields: Fields = {}
    for name in SYSTEM_FIELDS:
        value = system.get(name)
        if value is not None:
            fields[name] = value if isinstance(value, str) else field_value(text_of_element(value))
    fields["EventID"] = field_value(text_of_element(system.get("EventID")))
    provider = system.get("Provider")
    if isinstance(provider, dict):
        attributes = provider.get("#attributes", provider)
        named = attributes.get("Name", attributes.get("@Name")) if isinstance(attributes, dict) else None
        fields["Provider_Name"] = field_value(named)
    for name, part in event.items():
        if name == "UserData":
            for wrapped in part.values() if isinstance(part, dict) else ():
                _data(wrapped, fields)
        elif name not in ("System", "#attributes", "RenderingInfo"):
            _data(part, fields)
    return fields


def _data(data: Any, fields: Fields) -> None:
    """Event data in any of its spellings, under names without spaces."""
    if isinstance(data, str):
        for name, text in _XML_DATA.findall(data[:65536]):
            fields[name.replace(" ", "")] = html.unescape(text)
    if not isinstance(data, dict):
        return
    for name, value in data.items():
        if value.__class__ is str and name.isidentifier():
            fields[name] = value
        elif name == "#attributes" or name.startswith("@"):
            continue
        elif name == "Data" and isinstance(value, list):
            _named_data(value, fields)
        else:
            fields[name.replace(" ", "")] = field_value(text_of_element(value))


def _named_data(items: list[Any], fields: Fields) -> None:
    unnamed: list[Any] = []
    for item in items:
        attributes = item.get("#attributes", item) if isinstance(item, dict) else {}
        name = attributes.get("Name", attributes.get("@Name")) if isinstance(attributes, dict) else None
        if isinstance(name, str):
            fields[name.replace(" ", "")] = field_value(text_of_element(item))
        else:
            unnamed.append(field_value(text_of_element(item)))
    if unnamed:
        fields["Data"] = unnamed


def text_of_element(value: Any) -> Any:
    """An XML element's text, where a converter kept its attributes beside it."""
    if isinstance(value, dict) and ("#text" in value or "#attributes" in value):
        return value.get("#text")
    return value


def _undotted(body: Mapping[str, Any]) -> dict[str, Any]:
    """Winlogbeat's object again, of an object whose names have its dots: `winlog.event_data.Image`."""
    winlog: dict[str, Any] = {}
    for name, value in body.items():
        if name.startswith("winlog."):
            group, dot, inner = name.removeprefix("winlog.").partition(".")
            known = winlog.setdefault(group, {}) if dot else None
            if isinstance(known, dict):
                known[inner] = value
            elif not dot:
                winlog[group] = value
    return winlog


def _shipped(event: Mapping[str, Any], body: Mapping[str, Any]) -> Fields:
    number, provider = event.get("event_id"), event.get("provider")
    fields: Fields = {
        "EventID": field_value(number.get("id") if isinstance(number, dict) else number),
        "Computer": field_value(event.get("computer", event.get("computer_name"))),
        "Provider_Name": field_value(
            provider.get("name") if isinstance(provider, dict) else event.get("provider_name", provider)
        ),
    }
    for name, ours in _SHIPPED_NAMES.items():
        if event.get(name) is not None:
            fields[ours] = field_value(event[name])
    message = body.get("message")
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
    for part in user_data.values() if isinstance(user_data, dict) else ():
        if isinstance(part, dict):
            _data(part, fields)
    return fields


def _flattened(body: Mapping[str, Any]) -> Fields:
    """A nested event that someone has flattened: the last part of each name is the field's."""
    fields: Fields = {}
    for name, value in body.items():
        if name == "Event.System.Provider.#attributes.Name":
            fields["Provider_Name"] = field_value(value)
        elif name == "Event.System.EventID.#text":
            fields["EventID"] = field_value(value)
        elif name.startswith(("Event.System.", "Event.EventData.", "Event.UserData.")) and "#attributes" not in name:
            fields[name.rpartition(".")[2].replace(" ", "")] = field_value(value)
    return fields


def _flat(body: Mapping[str, Any]) -> Fields:
    """A flat event's fields, its event data lifted where it came as one XML text or map."""
    fields: Fields = {}
    for name, value in body.items():
        key = name.replace(" ", "") if " " in name else name
        if value is None or isinstance(value, str | int | float):
            fields[key] = value
        elif name not in ("EventData", "UserData"):
            fields[key] = field_value(text_of_element(value))
    _data(body.get("EventData"), fields)
    _data(body.get("UserData"), fields)
    for name, others in _FLAT_OTHERS:
        if name not in fields:
            for other in others:
                if other in fields:
                    fields[name] = fields[other]
                    break
    return fields


def read_xml(text: str) -> Fields | None:
    """The fields of an event in XML, as Windows, Sysmon for Linux and raw exports write it; None for other text.

    It is read by patterns of bounded length and never handed to an XML parser: no entity is ever expanded but the
    predefined ones and character references.
    """
    head = _XML_EVENT.match(text)
    if head is None or "<EventID" not in text[:4096]:
        return None
    text = text[:MAX_XML]
    system, _, rest = text.partition("</System>")
    fields: Fields = {name: html.unescape(value) for name, value in _XML_TEXT.findall(system)}
    if provider := _XML_PROVIDER.search(system):
        fields["Provider_Name"] = html.unescape(provider[1])
    if "<Data" in rest:
        _data(rest, fields)
        unnamed: list[Any] = [html.unescape(item) for item in _XML_UNNAMED.findall(rest)]
        if unnamed:
            fields["Data"] = unnamed
    elif "<UserData" in rest:
        for name, value in _XML_USER_DATA.findall(rest.partition("<UserData")[2]):
            fields[name] = html.unescape(value)
    return fields
