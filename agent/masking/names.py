"""Lists of names with `*` in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate


def name_filter(names: tuple[str, ...]) -> Callable[[str], bool]:
    """A function that says whether a name (in lower case) fits one of these."""
    exact = frozenset(name for name in names if "*" not in name)
    forms = [glob(name) for name in names if "*" in name]
    return lambda name: name in exact or any(form.match(name) for form in forms)


def glob(text: str) -> re.Pattern[str]:
    """What matches a name whose `*` stand for anything; nothing else in it is special."""
    return re.compile(translate(text.replace("[", "[[]").replace("?", "[?]")))
