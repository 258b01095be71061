"""From a syslog message to the record that is stored: its own text, and what its header says beside it. Pure."""

from __future__ import annotations

import re
from typing import Final

from detect.normalize.syslog import parse_envelope
from detect.normalize.timestamps import parse_timestamp
from detect.record import Nanoseconds
from detect.syslog_framing import SyslogFrame
from serve.ingest.otlp_conversion import SourceRecord

_PRIORITY: Final = re.compile(rb"<(\d{1,3})>")
_HEADER_BYTES: Final = 1024  # host, time and priority stand in it
_PRIORITY_LIMIT: Final = 191  # RFC 5424 section 6.2.1: 23 facilities, 8 severities each

# RFC 5424 section 6.2.1; OpenTelemetry's severity numbers from its logs data model, appendix B.
_SEVERITIES: Final = (
    (21, "emerg"),
    (19, "alert"),
    (18, "crit"),
    (17, "err"),
    (13, "warning"),
    (10, "notice"),
    (9, "info"),
    (5, "debug"),
)
_FACILITIES: Final = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("ntp", "audit", "alert", "clock"),
    *("local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"),
)


def syslog_record(frame: SyslogFrame, peer: str, received_ns: Nanoseconds) -> SourceRecord:
    """The record of one message.

    `peer` is the sender's address: the host of a message that names none (RFC 3164 section 4.3.3). `received_ns` gives
    an RFC 3164 stamp its year; a stamp without a zone is read as UTC.
    """
    header = frame.text[:_HEADER_BYTES].decode("utf-8", "replace")
    envelope = parse_envelope(header)
    host = envelope.host if envelope is not None else ""
    number, name, attributes = _priority(frame.text)
    if frame.cut:
        attributes |= {"trustsoc.truncated": True, "trustsoc.original_bytes": frame.octets}
    time_ns = max(0, parse_timestamp(header, received_ns) or 0)
    return SourceRecord(frame.text, time_ns, number, name, host or peer, attributes)


def _priority(text: bytes) -> tuple[int, str, dict[str, str | int | bool]]:
    match = _PRIORITY.match(text)
    if match is None or (priority := int(match[1])) > _PRIORITY_LIMIT:
        return 0, "", {}
    facility, severity = divmod(priority, 8)
    attributes: dict[str, str | int | bool] = {
        "log.syslog.facility.code": facility,
        "log.syslog.facility.name": _FACILITIES[facility],
        "log.syslog.severity.code": severity,
    }
    return *_SEVERITIES[severity], attributes
