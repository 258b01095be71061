"""Masks an OTLP/JSON request. It is built anew of the fields that OTLP knows: nobody could say what others hold."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, Final

import orjson

from agent.masking.json_text import MAX_DEPTH, Unmaskable, join
from agent.masking.otlp_protobuf import FAILED_KEY, is_text
from agent.masking.tally import MaskingTally, Undecodable
from agent.masking.values import ValueMasker

_SURROGATES = re.compile("[\ud800-\udfff]")
_NUMBER = re.compile(r"[-+]?[0-9][0-9.eE+-]{0,40}|-?Infinity|NaN")
_HEX = re.compile(r"[0-9A-Fa-f]{0,256}")
_RECORD_NUMBERS: Final = (
    *("timeUnixNano", "observedTimeUnixNano", "severityNumber", "droppedAttributesCount", "flags"),
)
_RECORD_IDS: Final = ("traceId", "spanId")
_ENTITY_TEXTS: Final = ("schemaUrl", "type")
_ENTITY_LISTS: Final = ("idKeys", "descriptionKeys")


class JsonMasker:
    """Masks requests by one policy and one key. Not for use by two threads."""

    def __init__(self, values: ValueMasker, *, closed: bool, redact_binary: bool) -> None:
        self._values = values
        self._closed = closed
        self._redact_binary = redact_binary

    def mask(self, body: bytes, tally: MaskingTally) -> bytes:
        """The request masked. Raises Undecodable for what is no OTLP request."""
        try:
            request = orjson.loads(body)
        except orjson.JSONDecodeError:
            request = _read_mended(body)
        groups = [self._resource_logs(item, tally) for item in _objects(_object(request), "resourceLogs")]
        return orjson.dumps({"resourceLogs": groups})

    def _resource_logs(self, found: dict[str, Any], tally: MaskingTally) -> dict[str, Any]:
        masked: dict[str, Any] = {}
        if found.get("resource") is not None:
            masked["resource"] = self._resource(_object(found["resource"]), tally)
        masked["scopeLogs"] = [self._scope_logs(item, tally) for item in _objects(found, "scopeLogs")]
        return masked | _texts(found, ("schemaUrl",))

    def _resource(self, found: dict[str, Any], tally: MaskingTally) -> dict[str, Any]:
        masked = self._described(found, tally)
        entities = _objects(found, "entityRefs")
        if entities:
            masked["entityRefs"] = [_entity(entity) for entity in entities]
        return masked

    def _scope_logs(self, found: dict[str, Any], tally: MaskingTally) -> dict[str, Any]:
        masked: dict[str, Any] = {}
        if found.get("scope") is not None:
            masked["scope"] = self._described(_object(found["scope"]), tally)
        masked["logRecords"] = [self._record(item, tally) for item in _objects(found, "logRecords")]
        return masked | _texts(found, ("schemaUrl",))

    def _described(self, found: dict[str, Any], tally: MaskingTally) -> dict[str, Any]:
        """A resource or scope; without its content where it cannot be masked."""
        hits: list[str] = []
        try:
            masked: dict[str, Any] = {"attributes": self._pairs(_objects(found, "attributes"), "", hits, 0)}
            name = found.get("name")
            if name is not None:
                masked["name"] = self._values.text("", _text(name), hits)
        except Undecodable:
            raise
        except Exception as error:  # whatever it is: what could not be masked must not be stored in clear
            tally.failed(error, closed=self._closed, records=0)
            return {} if self._closed else found
        tally.hits(hits)
        return masked | _texts(found, ("version",)) | _numbers(found, ("droppedAttributesCount",))

    def _record(self, found: dict[str, Any], tally: MaskingTally) -> dict[str, Any]:
        masked = _numbers(found, _RECORD_NUMBERS) | _ids(found)
        hits: list[str] = []
        try:
            if found.get("body") is not None:
                masked["body"] = self._value(_object(found["body"]), "", hits, 0)
            pairs = _objects(found, "attributes")
            if pairs:
                masked["attributes"] = self._pairs(pairs, "", hits, 0)
            for name in ("severityText", "eventName"):
                if found.get(name) is not None:
                    masked[name] = self._values.text("", _text(found[name]), hits)
        except Undecodable:
            raise
        except Exception as error:  # as above
            tally.failed(error, closed=self._closed)
            return _emptied(masked, type(error).__name__) if self._closed else found
        tally.record(hits)
        return masked

    def _pairs(self, pairs: list[dict[str, Any]], path: str, hits: list[str], depth: int) -> list[dict[str, Any]]:
        masked: list[dict[str, Any]] = []
        for pair in pairs:
            key = _text(pair["key"]) if pair.get("key") is not None else ""
            inner = join(path, key)
            value = pair.get("value")
            if value is None:
                masked.append({"key": key})
                continue
            value = _object(value)
            whole = None if value.keys().isdisjoint(_CONTAINERS) else self._values.whole(inner, hits)
            new: dict[str, Any] = {"stringValue": whole}
            if whole is None:
                new = self._value(value, inner, hits, depth)
            masked.append({"key": key, "value": new})
        return masked

    def _value(self, value: dict[str, Any], path: str, hits: list[str], depth: int) -> dict[str, Any]:
        masked: dict[str, Any] = {}
        for kind, content in value.items():
            if content is None:
                continue
            match kind:
                case "stringValue":
                    masked[kind] = self._values.text(path, _text(content), hits, depth)
                case "boolValue":
                    masked[kind] = bool(content)
                case "intValue" | "doubleValue":
                    masked |= self._number(kind, content, path, hits)
                case "bytesValue":
                    masked[kind] = self._binary(_text(content), path, hits, depth)
                case "arrayValue":
                    _check_depth(depth)
                    items = _objects(_object(content), "values", nullable=True)
                    masked[kind] = {"values": [self._value(item, path, hits, depth + 1) for item in items]}
                case "kvlistValue":
                    _check_depth(depth)
                    pairs = _objects(_object(content), "values")
                    masked[kind] = {"values": self._pairs(pairs, path, hits, depth + 1)}
        return masked

    def _number(self, kind: str, content: Any, path: str, hits: list[str]) -> dict[str, Any]:
        _check_number(content)
        try:
            number = int(content) if kind == "intValue" else float(content)
        except (ValueError, OverflowError):
            return {kind: content}  # a number that the server will refuse, or read in its own way
        new = self._values.number(path, number, hits)
        return {"stringValue": new} if isinstance(new, str) else {kind: content}

    def _binary(self, content: str, path: str, hits: list[str], depth: int) -> str:
        try:
            raw = base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Unmaskable("bytes that are no base64") from error
        if is_text(raw):
            return base64.b64encode(self._values.text(path, raw.decode(), hits, depth).encode()).decode("ascii")
        if not self._redact_binary or not raw:
            return content
        hits.append("binary")
        return base64.b64encode(b"[redacted:binary]").decode("ascii")


_CONTAINERS: Final = frozenset({"arrayValue", "kvlistValue", "bytesValue"})


def _read_mended(body: bytes) -> Any:
    """What orjson refuses and the server takes: broken UTF-8 and lone surrogates become U+FFFD."""
    try:
        return _without_surrogates(json.loads(body.decode("utf-8", "replace"), parse_constant=_refuse))
    except (ValueError, RecursionError) as error:
        raise Undecodable("the body is no JSON") from error


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_SURROGATES.sub("\ufffd", key): _without_surrogates(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Undecodable("an object was expected where the request has something else")
    return value


def _objects(found: dict[str, Any], name: str, *, nullable: bool = False) -> list[dict[str, Any]]:
    items = found.get(name)
    if items is None:
        return []
    if not isinstance(items, list):
        raise Undecodable(f"{name} must be a list")
    return [{} if nullable and item is None else _object(item) for item in items]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Undecodable("a text was expected where the request has something else")
    return value


def _texts(found: dict[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    return {name: _text(found[name]) for name in names if found.get(name) is not None}


def _numbers(found: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    numbers = {name: found[name] for name in names if found.get(name) is not None}
    for number in numbers.values():
        _check_number(number)
    return numbers


def _check_number(value: Any) -> None:
    if (isinstance(value, str) and not _NUMBER.fullmatch(value)) or isinstance(value, dict | list):
        raise Undecodable("a number was expected where the request has something else")


def _ids(found: dict[str, Any]) -> dict[str, str]:
    ids = _texts(found, _RECORD_IDS)
    if not all(_HEX.fullmatch(text) for text in ids.values()):
        raise Undecodable("trace and span ids are hex digits")
    return ids


def _entity(found: dict[str, Any]) -> dict[str, Any]:
    lists = {name: [_text(key) for key in found.get(name) or ()] for name in _ENTITY_LISTS}
    entity: dict[str, Any] = {name: keys for name, keys in lists.items() if keys}
    return entity | _texts(found, _ENTITY_TEXTS)


def _emptied(kept: dict[str, Any], reason: str) -> dict[str, Any]:
    """A record of which only times, numbers and ids are left."""
    for name in ("body", "attributes", "severityText", "eventName"):
        kept.pop(name, None)
    text = f"[not stored: this record could not be masked ({reason})]"
    pair = {"key": FAILED_KEY, "value": {"stringValue": "failed"}}
    return kept | {"body": {"stringValue": text}, "attributes": [pair]}


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise Unmaskable(f"values are nested deeper than {MAX_DEPTH} levels")
