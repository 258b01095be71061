"""Bytes of unknown origin as text that every output can hold."""

from __future__ import annotations

import re

_ESCAPED_BYTES = re.compile("[\udc80-\udcff]")


def mended(line: bytes) -> tuple[str, bool]:
    """The line as text, and whether bytes that are no UTF-8 had to become U+FFFD, each of them one."""
    try:
        return line.decode("utf-8"), False
    except UnicodeDecodeError:
        return _ESCAPED_BYTES.sub("\ufffd", line.decode("utf-8", "surrogateescape")), True


def printable_name(name: str) -> str:
    r"""A file's name as it is told: bytes that are no UTF-8, lone surrogates to Python, as `\udce9`.

    It opens nothing any more, so who opens files keeps their own names.
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
