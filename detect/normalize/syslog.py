"""The envelope of a syslog line: who wrote it, on which host, and the message itself."""

from __future__ import annotations

import re
from typing import NamedTuple

# RFC 3164 as daemons write it, and the same with an RFC 3339 stamp as rsyslog and systemd write it. The tag may carry
# a PAM module (`sshd(pam_unix)`) or a version (`syslogd 1.4.1`).
_BSD = re.compile(
    r"(?:<(\d{1,3})>)?"
    r"(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S{0,20})"
    r" (\S{1,255}) "
    r"(?:(\s?-- )?([\w./@+-]{1,128})(?:\(([\w-]{1,32})\))?(?: \d[\w.-]{0,20})?(?:\[(\d{1,10})\])?:(?: |$))?"
    r"(.*)",
    re.DOTALL,
)
_IETF = re.compile(r"<(\d{1,3})>1 (\S{1,64}) (\S{1,255}) (\S{1,48}) (\S{1,128}) (\S{1,32}) (?:-|(?=\[))(.*)", re.DOTALL)
# What programs hand to their local daemon, and some to the network: no stamp, no host.
_BARE = re.compile(r"<(\d{1,3})>([\w./@+-]{1,128})(?:\(([\w-]{1,32})\))?(?:\[(\d{1,10})\])?:(?: |$)(.*)", re.DOTALL)
_STRUCTURED = re.compile(r'\[(?:[^\]"\\]|\\.|"(?:[^"\\]|\\.)*")*\]', re.DOTALL)
_REPEATED = re.compile(r"message repeated (\d{1,9}) times: \[ ?(.*)\]\s*", re.DOTALL)


class Envelope(NamedTuple):
    """The parts of a syslog line; absent ones are empty. `module` is the PAM module in an old-style tag."""

    host: str
    app: str
    pid: str
    message: str
    module: str = ""
    priority: str = ""


def parse_envelope(line: str) -> Envelope | None:
    """The envelope of a line in RFC 3164 or RFC 5424 form, with or without stamp and host; None when it has neither."""
    if line.startswith("<"):
        match = _IETF.match(line)
        if match:
            priority, _, host, app, pid, _, rest = match.groups()
            return Envelope(_value(host), _value(app), _value(pid), _without_structured(rest), "", priority)
    match = _BSD.match(line)
    if match is None:
        return _bare_envelope(line) if line.startswith("<") else None
    priority, login, host, *_ = match[1], match[3], match[2]
    app = "login" if login else (match[4] or "")
    return Envelope(host, app.rpartition("/")[2] or app, match[6] or "", match[7], match[5] or "", priority or "")


def _bare_envelope(line: str) -> Envelope | None:
    match = _BARE.match(line)
    if match is None:
        return None
    priority, app, module, pid, message = match.groups()
    return Envelope("", app.rpartition("/")[2] or app, pid or "", message, module or "", priority)


def unrepeat(message: str) -> tuple[str, int]:
    """The message inside `message repeated N times: [ ... ]` and N; any other message and 1."""
    if message.startswith("message repeated ") and (match := _REPEATED.fullmatch(message)):
        return match[2], int(match[1])
    return message, 1


def _value(text: str) -> str:
    return "" if text == "-" else text


def _without_structured(rest: str) -> str:
    position = 0
    while match := _STRUCTURED.match(rest, position):
        position = match.end()
    return rest[position:].removeprefix(" ").removeprefix("\ufeff")
