"""The time that a line states itself, for senders: a tailed line's own stamp is closer to the truth than "now"."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from detect.record import Nanoseconds

_MONTHS = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}
_HEAD = 512
_ISO = re.compile(
    r"(?:<\d{1,3}>(?:1 )?|\[)?"
    r"(\d{4})[-/](\d\d)[-/](\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?\s?(Z|[+-]\d\d:?\d\d)?"
)
_BSD = re.compile(r"(?:<\d{1,3}>)?([A-Z][a-z]{2}) ([ \d]\d) (\d\d):(\d\d):(\d\d)(?: |$)")
_ACCESS = re.compile(r"\[(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-]\d\d)(\d\d)\]")
_APACHE_ERROR = re.compile(r"\[[A-Z][a-z]{2} ([A-Z][a-z]{2}) ([ \d]\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))? (\d{4})\]")
_AUDIT = re.compile(r"(?:node=\S+ )?type=\S+ msg=audit\((\d{1,12})\.(\d{3}):\d+\)")
_WEEK_AHEAD = timedelta(days=7)


def parse_timestamp(line: str, reference_ns: Nanoseconds) -> Nanoseconds | None:
    """The time a log line states, in nanoseconds since the epoch; None when it states none that is understood.

    `reference_ns` is a time near which the line was written (receive time, or the file's modification time): an
    RFC 3164 stamp has no year and takes the latest one that does not put it more than a week after the reference.
    Stamps without a zone are read as UTC.
    """
    head = line[:_HEAD].lstrip()
    try:
        if match := _AUDIT.match(head):
            return int(match[1]) * 10**9 + int(match[2]) * 10**6
        if match := _BSD.match(head):
            return _without_year(match, reference_ns)
        if match := _ISO.match(head):
            return _iso(match)
        if match := _APACHE_ERROR.match(head):
            month, day, hour, minute, second, fraction, year = match.groups()
            return _nanoseconds(_at(year, month, day, hour, minute, second, UTC), fraction)
        if match := _ACCESS.search(head):
            day, month, year, hour, minute, second, zone_hours, zone_minutes = match.groups()
            zone = _zone(f"{zone_hours}{zone_minutes}")
            return _nanoseconds(_at(year, month, day, hour, minute, second, zone), None)
    except (ValueError, KeyError, OverflowError):
        return None
    return None


def _iso(match: re.Match[str]) -> Nanoseconds:
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    parts = (int(part) for part in (year, month, day, hour, minute, second))
    return _nanoseconds(datetime(*parts, tzinfo=_zone(zone)), fraction)  # type: ignore[misc, arg-type]  # six parts


def _without_year(match: re.Match[str], reference_ns: Nanoseconds) -> Nanoseconds:
    reference = datetime.fromtimestamp(reference_ns // 10**9, UTC)
    month, day, hour, minute, second = match.groups()
    # 29 February exists every fourth year at best, so the year may lie some way back.
    for year in range(reference.year + 1, reference.year - 9, -1):
        try:
            moment = _at(str(year), month, day, hour, minute, second, UTC)
        except ValueError:
            continue
        if moment <= reference + _WEEK_AHEAD:
            return _nanoseconds(moment, None)
    raise ValueError("no year has that day")


def _at(year: str, month: str, day: str, hour: str, minute: str, second: str, zone: timezone) -> datetime:
    number = _MONTHS[month.lower()]
    return datetime(int(year), number, int(day), int(hour), int(minute), int(second), tzinfo=zone)


def _zone(text: str | None) -> timezone:
    if text is None or text == "Z":
        return UTC
    digits = text[1:].replace(":", "")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if text[0] == "-" else offset)


def _nanoseconds(moment: datetime, fraction: str | None) -> Nanoseconds:
    seconds = int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    return seconds * 10**9 + (int(fraction.ljust(9, "0")) if fraction else 0)
