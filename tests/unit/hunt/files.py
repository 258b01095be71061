"""Log files, rules and a whole hunt over them, made in the tests."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hunt.books import HuntBooks
from hunt.found import JsonLinesWriter
from hunt.inputs import find_files, open_inputs
from hunt.log_format import LogFormat
from hunt.rule_cache import load_rules
from hunt.run import Hunt, HuntOptions

NOW_NS = 1_795_338_000 * 10**9
"""2026-11-22 09:00:00 UTC."""

WHOAMI = {
    "Channel": "Microsoft-Windows-Sysmon/Operational",
    "Computer": "ws-1",
    "EventID": 1,
    "Image": "C:\\Windows\\System32\\whoami.exe",
    "CommandLine": "whoami /all",
    "User": "CORP\\eve",
    "@timestamp": "2026-11-22T08:00:00Z",
}
NOTEPAD = {**WHOAMI, "Image": "C:\\Windows\\notepad.exe", "CommandLine": "notepad"}
REFUSED = "Nov 22 08:{minute:02d}:{second:02d} web-1 sshd[7]: Failed password for root from {address} port 4242 ssh2"

WHOAMI_RULE = """
title: Whoami Run
id: 7b0e6a5c-0b0f-4f6e-9a35-0e5f5d1c6a01
name: whoami_run
status: test
level: medium
author: A Person
license: Apache-2.0
tags: [attack.discovery, attack.t1033, detection.emerging-threats]
logsource: {product: windows, category: process_creation}
detection:
  selection: {Image|endswith: '\\whoami.exe'}
  condition: selection
tests:
  positive: [{Channel: Microsoft-Windows-Sysmon/Operational, Computer: a, EventID: 1, Image: 'C:\\whoami.exe'}]
"""
REFUSED_RULE = """
title: Password Refused
id: 7b0e6a5c-0b0f-4f6e-9a35-0e5f5d1c6a02
name: password_refused
status: stable
level: low
tags: [attack.credential-access, attack.t1110]
logsource: {product: linux, service: sshd}
detection:
  keywords: ['Failed password']
  condition: keywords
"""
GUESSING_RULE = """
title: Password Guessing
id: 7b0e6a5c-0b0f-4f6e-9a35-0e5f5d1c6a03
status: stable
level: high
tags: [attack.credential-access, attack.t1110.001]
correlation:
  type: event_count
  rules: [password_refused]
  group-by: [src_ip]
  timespan: 1m
  condition: {gte: 5}
"""
ALL_RULES = [("whoami.yml", WHOAMI_RULE), ("refused.yml", REFUSED_RULE), ("guessing.yml", GUESSING_RULE)]


def refusals(count: int, address: str = "203.0.113.9", minute: int = 10) -> list[str]:
    """Refused passwords, a second apart."""
    return [REFUSED.format(minute=minute, second=second, address=address) for second in range(count)]


def json_lines(*events: Any) -> bytes:
    """Events, one a line."""
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


class Bytes:
    """A stream that gives its bytes in pieces as large as they are asked for."""

    def __init__(self, content: bytes) -> None:
        self._content, self._place = memoryview(content), 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end."""
        piece = bytes(self._content[self._place : self._place + size])
        self._place += len(piece)
        return piece


def hunted(
    names: Sequence[Path | str],
    options: HuntOptions | None = None,
    rules: Sequence[tuple[str, str]] = tuple(ALL_RULES),
    forced: LogFormat | None = None,
) -> tuple[list[dict[str, Any]], HuntBooks]:
    """What a hunt over the files says, and its books, which must balance."""
    options = options or HuntOptions(format=forced)
    loaded = load_rules(rules, options.choice, None, options.correlate)
    assert loaded.everything.errors == ()
    paths, missing = find_files([str(name) for name in names])
    inputs, errors = open_inputs(paths, NOW_NS, options.format)
    stream = io.BytesIO()
    books = Hunt(options, rules, loaded, inputs, [*missing, *errors]).run(
        JsonLinesWriter(stream), lambda _file, _read, _books: None
    )
    assert books.balanced
    return [json.loads(line) for line in stream.getvalue().splitlines()], books
