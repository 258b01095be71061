"""Regular expressions in time linear to the text, whatever the pattern: rules and log lines are written by strangers.

RE2 runs them (the engine that pySigma itself requires), so no pattern can take exponential time on hostile text.
What RE2 does not know, look-around and back references, is refused when the rule is loaded. Its classes `\\w`, `\\d`
and `\\s` are ASCII, `$` without the flag m is the end of the text.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import re2  # type: ignore[import-untyped]  # ships without types

from detect.sigma.syntax import Regex

VALUE_LIMIT = 65_536
"""Characters of a value that a regular expression gets to see: longer values are cut, which bounds its cost."""


class BadRegex(ValueError):
    """A pattern that RE2 does not accept; the text says why."""


@lru_cache(maxsize=8192)
def compiled(regex: Regex) -> Any:
    """The compiled pattern; raises BadRegex."""
    options = re2.Options()
    options.log_errors = False
    prefix = f"(?{regex.flags})" if regex.flags else ""
    try:
        return re2.compile(prefix + regex.pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0] if error.args else error
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(error)
        raise BadRegex(text) from error


def visible(text: str) -> bytes:
    """What of a text an expression gets to see: its first 65,536 characters. Lone surrogates count as foreign bytes."""
    return text[:VALUE_LIMIT].encode("utf-8", "surrogatepass")


def found(regex: Regex, text: str) -> bool:
    """Whether the pattern is found anywhere in the first 65,536 characters."""
    return compiled(regex).search(visible(text)) is not None
