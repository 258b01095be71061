"""Records of the Linux audit system: `type=... msg=audit(...): key=value ...`, with or without the enriched part."""

from __future__ import annotations

import re
from typing import Final

from detect.normalize.definition import Definition, EntitySpec
from detect.normalize.derive import derive_command, image_of
from detect.normalize.draft import Draft
from detect.record import FieldValue, Logsource

_HEADER = re.compile(
    r"(?:node=(\S{1,255}) )?(?:type=(\S{1,64}) )?(?:msg=)?audit\((\d{1,12}\.\d{1,9}):(\d{1,20})\):\s*(.*)", re.DOTALL
)
_PAIR = re.compile(r"([A-Za-z_][\w-]{0,63})(\[\d{1,5}\])?=(?:\"([^\"]*)\"|'([^']*)'|([^\s\x1d'\"]*))")
_ARGUMENT = re.compile(r"a(\d{1,4})").fullmatch
_HEX = re.compile(r"(?:[0-9A-F]{2})+").fullmatch
# The kernel writes these in hex when they hold a space, a quote or a control character, and then without quotes.
_ENCODED: Final = frozenset({"acct", "cmd", "comm", "cwd", "data", "dir", "exe", "key", "name", "path", "proctitle"})
_MAX_PAIRS: Final = 2048
_SUCCESS: Final = frozenset({"success", "yes", "1"})
_FAILURE: Final = frozenset({"failed", "no", "0"})
_AUDITD: Final = Logsource("linux", "", "auditd")
_ENTITIES: Final = (
    EntitySpec("user", "AUID", "actor"),
    EntitySpec("user", "acct", "target"),
    EntitySpec("ip", "addr", "source"),
    EntitySpec("ip", "laddr", "target"),
    EntitySpec("process", "Image"),
    EntitySpec("url", "CommandLine", "target"),
)


class AuditParser:
    """Reads audit lines; the class of each record type comes from the definition file."""

    def __init__(self, definition: Definition) -> None:
        self._activities = definition.activities

    def read(self, line: str, draft: Draft) -> bool:
        """Fills the draft from an audit line; False when the line is none."""
        header = _HEADER.match(line)
        if header is None:
            return False
        node, kind, _, serial, rest = header.groups()
        fields = draft.fields
        _pairs(rest, fields, execve=kind == "EXECVE")
        kind = kind or str(fields.get("type", ""))
        fields["type"] = kind
        fields["audit_id"] = serial
        draft.name = f"auditd/{kind}"
        draft.host = draft.host or node or ""
        draft.logsource = _AUDITD
        draft.activity = self._activities.get(kind, "other")
        result = str(fields.get("res", fields.get("success", ""))).lower()
        draft.outcome = "success" if result in _SUCCESS else "failure" if result in _FAILURE else "unknown"
        _view(kind, draft)
        for spec in _ENTITIES:
            draft.mention(spec)
        return True


def _pairs(text: str, fields: dict[str, FieldValue], execve: bool) -> None:
    for count, match in enumerate(_PAIR.finditer(text)):
        key, part, quoted, nested, bare = match.groups()
        if nested is not None and key == "msg":
            _pairs(nested, fields, execve=False)
            continue
        value = quoted if quoted is not None else nested if nested is not None else bare
        if bare is not None and (key in _ENCODED or (execve and _ARGUMENT(key))):
            value = _decoded(bare)
        if part is not None:
            value = f"{fields.get(key, '')}{value}"
        fields[key] = value
        if count >= _MAX_PAIRS:
            return


def _decoded(value: str) -> str:
    if len(value) < 2 or not _HEX(value):
        return value
    return bytes.fromhex(value).decode("utf-8", "replace").rstrip("\x00").replace("\x00", " ")


def _view(kind: str, draft: Draft) -> None:
    """The names under which Sigma's process_creation and file_event rules look for what happened."""
    fields = draft.fields
    if kind == "EXECVE":
        numbered = ((int(match[1]), value) for key, value in fields.items() if (match := _ARGUMENT(key)))
        arguments = [str(value) for _, value in sorted(numbered)]
        fields["CommandLine"] = " ".join(arguments)
        if arguments:
            fields["Image"] = image_of(arguments[0])
        draft.logsource = Logsource("linux", "process_creation", "auditd")
    elif kind in ("USER_CMD", "USER_ACCT_CMD"):
        fields["COMMAND"] = fields.get("cmd", "")
        derive_command(fields)
        draft.logsource = Logsource("linux", "process_creation", "auditd")
    elif kind == "PATH":
        if fields.get("nametype") == "CREATE":
            fields["TargetFilename"] = fields.get("name")
            draft.logsource = Logsource("linux", "file_event", "auditd")
        draft.mention(EntitySpec("file", "name", "target"))
    elif "exe" in fields:
        fields["Image"] = fields["exe"]
