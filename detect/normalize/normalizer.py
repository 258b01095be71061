"""From a log record to the flat view that rules read: which parser a record goes to, and what is left without one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from detect.normalize.auditd import AuditParser
from detect.normalize.definition import Definition, ParserError, Program, compile_program
from detect.normalize.draft import Draft
from detect.normalize.message import BodyMessage, FieldMessage, as_json
from detect.normalize.product import Products
from detect.normalize.structured import GenericEntities, flatten, message_field, parse_object, parse_pairs
from detect.normalize.syslog import Envelope, parse_envelope, unrepeat
from detect.normalize.windows import WindowsParser
from detect.record import AnyValue, FieldValue, LogRecord, Logsource, NormalizedRecord

MAX_PARSED: Final = 65536
"""Characters of a line that parsers look at; the message keeps all of it."""

MAX_JSON: Final = 4 * MAX_PARSED
"""Characters of a body that is read as JSON; a longer one is a line."""

_SYSLOG: Final = Logsource("linux", "", "syslog")
_AUTH: Final = Logsource("linux", "", "auth")
_WEB: Final = Logsource("", "webserver", "")
_APP_ATTRIBUTES: Final = ("appname", "syslog.appname", "syslog.identifier", "process.name", "service.name")
_PID_ATTRIBUTES: Final = ("proc_id", "syslog.procid", "process.pid")
# What Elastic's, Vector's and Fluent Bit's syslog and journal inputs call them.
_WRAPPED_APP_FIELDS: Final = ("appname", "log.syslog.appname", "syslog.appname", "process.name", "ident", "program")
_WRAPPED_PID_FIELDS: Final = ("procid", "log.syslog.procid", "process.pid", "pid")
_FILE_ATTRIBUTES: Final = ("log.file.name", "log.file.path")
_STATED: Final = ("sigma.product", "sigma.category", "sigma.service")
_LANGUAGE: Final = ("telemetry.sdk.language",)
_EVENT_SIGNS: Final = frozenset({"EventID", "EventCode", "event_id", "winlog.event_id", "winlog", "Event"})
_XML_STARTS: Final = ("<Event", "<?xml")
_FILES: Final = (
    (re.compile(r"(?:^|/)(?:auth\.log|secure)\b"), _AUTH),
    (re.compile(r"(?:^|/)(?:syslog|messages)\b"), _SYSLOG),
    (re.compile(r"(?:^|/)cron\b"), Logsource("linux", "", "cron")),
    (re.compile(r"(?:^|/)audit\.log\b"), Logsource("linux", "", "auditd")),
    (re.compile(r"(?:^|/)[^/]{0,64}access[^/]{0,16}\.log\b"), _WEB),
)


class Normalizer:
    """The same record always gives the same view; what it remembers only makes it quicker. It raises for no input.

    `definitions` come from `load_parsers`; a message that no pattern knows keeps its program's logsource.
    """

    def __init__(self, definitions: Sequence[Definition]) -> None:
        self._programs: dict[str, Program] = {}
        self._prefixed: list[tuple[tuple[str, ...], Program]] = []
        self._lines: list[Program] = []
        builtin: dict[str, Definition] = {}
        for definition in definitions:
            if definition.format == "builtin":
                builtin[definition.name] = definition
            if definition.format in ("builtin", "object"):
                continue
            program = compile_program(definition)
            if definition.format == "line":
                self._lines.append(program)
            for app in definition.apps:
                self._programs[app.lower()] = program
            if definition.prefixes:
                self._prefixed.append((definition.prefixes, program))
        try:
            self._audit = AuditParser(builtin["auditd"])
            self._windows = WindowsParser(builtin["windows"])
            self._generic = GenericEntities(builtin["generic"])
            self._languages = builtin["generic"].sources
        except KeyError as error:
            raise ParserError(f"the definition {error} is missing") from None
        self._products = Products(definitions)

    def normalize(self, record: LogRecord) -> NormalizedRecord:
        """The record's flat view, its entities, class and outcome."""
        body, attributes = record.body, record.attributes
        parsed: dict[str, Any] | None = None
        sent: str | bytes = ""
        if attributes and not _EVENT_SIGNS.isdisjoint(attributes):
            view = self._windows.view(record, attributes, _line_of(body), "")
        else:
            if isinstance(body, str) and body.startswith("{"):
                parsed, sent = parse_object(body) if len(body) <= MAX_JSON else None, body
            elif isinstance(body, dict):
                parsed, sent = body, record.sent
            known = parsed is not None and ("EventID" in parsed or "Event" in parsed)
            view = self._windows.view(record, parsed, "", sent) if parsed is not None and known else None
        return self._read(record, parsed).finish(record) if view is None else view

    def recognise(self, record: LogRecord) -> str:
        """The name of the parser that knows the record (`sshd/accepted`); empty when none does."""
        return self._read(record, None).name

    def _read(self, record: LogRecord, parsed: dict[str, Any] | None) -> Draft:
        """`parsed`: the object that the record's body is, where that is known."""
        body, attributes = record.body, record.attributes
        if attributes and not _EVENT_SIGNS.isdisjoint(attributes):
            draft = Draft(_line_of(body), {}, [], whole=True)
            if self._windows.read(attributes, draft):
                return draft
        if isinstance(body, str):
            return self._read_object(record, parsed, body) if parsed is not None else self._read_line(record, body)
        if isinstance(body, dict):
            return self._read_object(record, body, "")
        draft = Draft(_text(body), {}, [])
        self._read_attributes(record, draft)
        return draft

    def _read_line(self, record: LogRecord, text: str) -> Draft:
        line = (text if len(text) <= MAX_PARSED else text[:MAX_PARSED]).rstrip("\r\n")
        draft = Draft(text, {}, [])
        if line.startswith(("type=", "node=")) and self._audit.read(line, draft):
            return draft
        if line[:64].lstrip().startswith("{") and len(text) <= MAX_JSON and (body := parse_object(text)) is not None:
            return self._read_object(record, body, text)
        if line.startswith(_XML_STARTS) and self._windows.read_text(text, draft):
            return draft
        envelope = parse_envelope(line)
        if envelope is not None:
            self._read_syslog(record, envelope, draft)
            return draft
        if (pairs := parse_pairs(line)) and self._products.read(pairs, record.resource, draft):
            return draft
        if self._read_plain(line, draft):
            return draft
        app = _attribute(record, _APP_ATTRIBUTES)
        if app.lower() in self._programs or line.startswith("pam_"):
            pid = _attribute(record, _PID_ATTRIBUTES)
            self._read_syslog(record, Envelope("", app, pid, line), draft)
            return draft
        self._read_attributes(record, draft)
        return draft

    def _read_syslog(self, record: LogRecord, envelope: Envelope, draft: Draft) -> None:
        host, app, pid, message, module, _ = envelope
        if module:
            message = f"{module}({app}:auth): {message}"
        draft.host = host
        for name, value in (("hostname", host), ("appname", app), ("procid", pid)):
            if value:
                draft.fields[name] = value
        program = self._programs.get(app.lower())
        if program is not None and program.logsource is not None:
            draft.logsource, draft.activity = program.logsource, program.activity
        elif app.startswith("audi") and self._audit.read(message, draft):
            return
        else:
            draft.logsource = _AUTH if _file_logsource(record) == _AUTH else _SYSLOG
        if message.startswith(_XML_STARTS) and self._windows.read_text(message, draft):
            return
        message, times = unrepeat(message)
        if times > 1:
            draft.fields["repeated"] = times
        for prefixes, prefixed in self._prefixed:
            if message.startswith(prefixes):
                program = prefixed
                draft.logsource = prefixed.logsource or draft.logsource
                break
        if program is not None and (known := program.recognise(message)):
            draft.take(*known)

    def _read_object(self, record: LogRecord, body: Mapping[str, Any], line: str) -> Draft:
        draft = Draft(line, {}, [])
        if self._windows.read(body, draft):
            return draft
        identifier, message = body.get("SYSLOG_IDENTIFIER", body.get("_COMM")), body.get("MESSAGE")
        if isinstance(identifier, str) and isinstance(message, str):
            draft.message = message
            host, pid = str(body.get("_HOSTNAME", "")), str(body.get("_PID", ""))
            self._read_syslog(record, Envelope(host, identifier, pid, message[:MAX_PARSED]), draft)
            draft.name = draft.name or "journald"
            return draft
        fields = flatten(body)
        key = message_field(fields)
        draft.message = FieldMessage(key) if key else BodyMessage()
        if self._products.read(fields, record.resource, draft):
            return draft
        draft.fields, draft.name = fields, "json/generic"
        self._generic.read(draft)
        draft.logsource = self._stated_logsource(record, draft.logsource)
        if key:
            self._read_wrapped(record, str(fields[key]), draft)
        return draft

    def _read_attributes(self, record: LogRecord, draft: Draft) -> None:
        """A record of no known shape: its attributes are its fields, the name of its file says what it may be."""
        fields = flatten(record.attributes)
        draft.whole = True
        if self._products.read(fields, record.resource, draft):
            return
        draft.fields = fields
        draft.logsource = self._stated_logsource(record, _file_logsource(record))
        self._generic.read(draft)

    def _stated_logsource(self, record: LogRecord, known: Logsource) -> Logsource:
        """What the sender says the record is to Sigma, or in what language the program is that wrote it."""
        stated = [_attribute(record, (name,)).lower() for name in _STATED]
        if any(stated):
            return Logsource(*(own or part for own, part in zip(stated, known, strict=True)))
        if any(known) or (spec := self._languages.get(_attribute(record, _LANGUAGE).lower())) is None:
            return known
        return Logsource(spec.product, spec.category, spec.service)

    def _read_wrapped(self, record: LogRecord, text: str, draft: Draft) -> None:
        """A shipper's object around a line: the line is read as if it had come alone, over the object's fields."""
        line, host = text[:MAX_PARSED].rstrip("\r\n"), draft.host
        if line.startswith(("type=", "node=")) and self._audit.read(line, draft):
            return
        envelope = parse_envelope(line)
        if envelope is None:
            app = _first_text(draft.fields, _WRAPPED_APP_FIELDS)
            if app.lower() not in self._programs:
                self._read_plain(line, draft)
                return
            envelope = Envelope("", app, _first_text(draft.fields, _WRAPPED_PID_FIELDS), line)
        self._read_syslog(record, envelope, draft)
        draft.host = draft.host or host

    def _read_plain(self, line: str, draft: Draft) -> bool:
        """A line that needs no envelope to be known, as web servers write them."""
        for program in self._lines:
            if known := program.recognise(line):
                draft.logsource = program.logsource or draft.logsource
                draft.take(*known)
                return True
        return False


def _line_of(body: AnyValue) -> str:
    """The line that a body is beside attributes that hold the event; JSON and XML would say it all a second time."""
    return body if isinstance(body, str) and not body.startswith(("{", "<")) else ""


def _first_text(fields: Mapping[str, FieldValue], names: tuple[str, ...]) -> str:
    for name in names:
        value = fields.get(name)
        if isinstance(value, str | int) and value != "":
            return str(value)
    return ""


def _file_logsource(record: LogRecord) -> Logsource:
    name = _attribute(record, _FILE_ATTRIBUTES)
    if name:
        for pattern, logsource in _FILES:
            if pattern.search(name[:1024]):
                return logsource
    return Logsource()


def _attribute(record: LogRecord, names: tuple[str, ...]) -> str:
    attributes, resource = record.attributes, record.resource
    for name in names:
        value = attributes.get(name)
        if value is None:
            value = resource.get(name)
        if isinstance(value, str | int):
            return str(value)
    return ""


def _text(body: AnyValue) -> str:
    if body is None:
        return ""
    if isinstance(body, bytes):
        return body.decode("utf-8", "replace")
    return as_json(body)
