"""From a log record to the flat view that rules read: which parser a record goes to, and what is left without one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from detect.normalize.auditd import AuditParser
from detect.normalize.definition import Definition, ParserError, Program, compile_program
from detect.normalize.draft import Draft, as_json, field_value
from detect.normalize.structured import parse_object, read_generic_entities, read_object
from detect.normalize.syslog import Envelope, parse_envelope, unrepeat
from detect.normalize.windows import WindowsParser
from detect.record import AnyValue, FieldValue, LogRecord, Logsource, NormalizedRecord

MAX_PARSED: Final = 65536
"""Characters of a line that parsers look at; the message keeps all of it."""

_SYSLOG: Final = Logsource("linux", "", "syslog")
_AUTH: Final = Logsource("linux", "", "auth")
_WEB: Final = Logsource("", "webserver", "")
_APP_ATTRIBUTES: Final = ("appname", "syslog.appname", "syslog.identifier", "process.name", "service.name")
_PID_ATTRIBUTES: Final = ("proc_id", "syslog.procid", "process.pid")
# What Elastic's, Vector's and Fluent Bit's syslog and journal inputs call them.
_WRAPPED_APP_FIELDS: Final = ("appname", "log.syslog.appname", "syslog.appname", "process.name", "ident", "program")
_WRAPPED_PID_FIELDS: Final = ("procid", "log.syslog.procid", "process.pid", "pid")
_FILE_ATTRIBUTES: Final = ("log.file.name", "log.file.path")
_FILES: Final = (
    (re.compile(r"(?:^|/)(?:auth\.log|secure)\b"), _AUTH),
    (re.compile(r"(?:^|/)(?:syslog|messages)\b"), _SYSLOG),
    (re.compile(r"(?:^|/)cron\b"), Logsource("linux", "", "cron")),
    (re.compile(r"(?:^|/)audit\.log\b"), Logsource("linux", "", "auditd")),
    (re.compile(r"(?:^|/)[^/]{0,64}access[^/]{0,16}\.log\b"), _WEB),
)


class Normalizer:
    """Stateless: the same record always gives the same view. It raises for no input.

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
        except KeyError as error:
            raise ParserError(f"the definition {error} is missing") from None

    def normalize(self, record: LogRecord) -> NormalizedRecord:
        """The record's flat view, its entities, class and outcome."""
        return self._read(record).finish(record)

    def recognise(self, record: LogRecord) -> str:
        """The name of the parser that knows the record (`sshd/accepted`); empty when none does."""
        return self._read(record).name

    def _read(self, record: LogRecord) -> Draft:
        body = record.body
        if isinstance(body, str):
            return self._read_line(record, body)
        if isinstance(body, dict):
            return self._read_object(record, body, "")
        draft = Draft(_text(body), {}, [])
        _generic(record, draft)
        return draft

    def _read_line(self, record: LogRecord, text: str) -> Draft:
        line = (text if len(text) <= MAX_PARSED else text[:MAX_PARSED]).rstrip("\r\n")
        draft = Draft(text, {}, [])
        if line.startswith(("type=", "node=")) and self._audit.read(line, draft):
            return draft
        if line.lstrip().startswith("{") and len(text) <= 4 * MAX_PARSED and (body := parse_object(text)) is not None:
            return self._read_object(record, body, text)
        envelope = parse_envelope(line)
        if envelope is not None:
            self._read_syslog(record, envelope, draft)
            return draft
        if self._read_plain(line, draft):
            return draft
        app = _attribute(record, _APP_ATTRIBUTES)
        if app.lower() in self._programs or line.startswith("pam_"):
            pid = _attribute(record, _PID_ATTRIBUTES)
            self._read_syslog(record, Envelope("", app, pid, line), draft)
            return draft
        _generic(record, draft)
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
        message, times = unrepeat(message)
        if times > 1:
            draft.fields["repeated"] = times
        for prefixes, prefixed in self._prefixed:
            if message.startswith(prefixes):
                program = prefixed
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
        read_object(body, line, draft)
        if draft.name == "json/generic" and draft.message is not line:
            self._read_wrapped(record, draft)
        return draft

    def _read_wrapped(self, record: LogRecord, draft: Draft) -> None:
        """A shipper's object around a line: the line is read as if it had come alone, over the object's fields."""
        line, host = draft.message[:MAX_PARSED].rstrip("\r\n"), draft.host
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


def _first_text(fields: Mapping[str, FieldValue], names: tuple[str, ...]) -> str:
    for name in names:
        value = fields.get(name)
        if isinstance(value, str | int) and value != "":
            return str(value)
    return ""


def _generic(record: LogRecord, draft: Draft) -> None:
    """A record of no known shape: its attributes are its fields, the name of its file says what it may be."""
    draft.logsource = _file_logsource(record)
    draft.fields = {key: field_value(value) for key, value in record.attributes.items()}
    read_generic_entities(draft)


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
