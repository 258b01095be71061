"""The minute, hour, day, week, month and year of the time that a value writes (Sigma 2.1, time modifiers).

Nothing is converted between time zones: the parts are those that stand in the text, as the specification wants it.
Only a count of seconds since 1970 has no parts of its own; it is read as UTC. A value that is no time has no parts.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

from detect.sigma.syntax import TimePart

_TIME = r"[T ](?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,]\d{1,9})?)?"
_ZONE = r" ?(?:Z|UTC|[+-]\d\d:?\d\d|[+-]\d\d)?"
_WRITTEN = re.compile(rf"(?P<year>\d{{4}})(?P<mark>[-/])(?P<month>\d\d)(?P=mark)(?P<day>\d\d)(?:{_TIME}{_ZONE})?", re.A)
_ACCESS_LOG = re.compile(
    r"(?P<day>\d\d)/(?P<name>[A-Z][a-z][a-z])/(?P<year>\d{4})"
    r":(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d) [+-]\d{4}",
    re.ASCII,
)
_EPOCH = re.compile(r"\d{9,10}(?:\.\d{1,9})?|\d{12,13}|\d{15,16}|\d{18,19}", re.A)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LONGEST = 40
_START = datetime(1970, 1, 1, tzinfo=UTC)


def part_holds(wanted: TimePart, text: str) -> bool:
    """Whether the part of the time that the text writes compares as wanted; never of a text that is no time."""
    number = part_of(text, wanted.part)
    if number is None:
        return False
    match wanted.comparison:
        case "equals":
            return number == wanted.number
        case "gt":
            return number > wanted.number
        case "gte":
            return number >= wanted.number
        case "lt":
            return number < wanted.number
        case "lte":
            return number <= wanted.number


def part_of(text: str, part: str) -> int | None:
    """The part as a number (the week as ISO 8601 counts it, 1 to 53), None when the text does not say it.

    Read are ISO 8601 dates and times (`T` or a space between, any zone), the same with slashes, the stamp of web
    servers' access logs, and seconds, milliseconds, microseconds or nanoseconds since 1970.
    """
    if len(text) > _LONGEST:
        return None
    if _EPOCH.fullmatch(text):
        return _part(_since_1970(text), part)
    found = _WRITTEN.fullmatch(text) or _ACCESS_LOG.fullmatch(text)
    if found is None:
        return None
    said = found.groupdict()
    if part in ("hour", "minute") and said["hour"] is None:
        return None
    try:
        month = int(said["month"]) if "month" in said else _MONTHS.index(said["name"]) + 1
        day = date(int(said["year"]), month, int(said["day"]))
        return _part(datetime(day.year, day.month, day.day, int(said["hour"] or 0), int(said["minute"] or 0)), part)  # noqa: DTZ001 - the text's own zone, which nothing is converted from
    except ValueError:
        return None


def _since_1970(text: str) -> datetime:
    whole = text.partition(".")[0]
    seconds = int(whole) // 10 ** {9: 0, 10: 0, 12: 3, 13: 3, 15: 6, 16: 6, 18: 9, 19: 9}[len(whole)]
    return _START + timedelta(seconds=seconds)


def _part(moment: datetime, part: str) -> int:
    match part:
        case "minute":
            return moment.minute
        case "hour":
            return moment.hour
        case "day":
            return moment.day
        case "week":
            return moment.isocalendar().week
        case "month":
            return moment.month
        case _:
            return moment.year
