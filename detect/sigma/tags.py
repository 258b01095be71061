"""ATT&CK identifiers from Sigma tags: `attack.t1110.001` is a technique, `attack.credential-access` a tactic."""

from __future__ import annotations

import re
from collections.abc import Iterable

_TECHNIQUE = re.compile(r"attack\.(t[0-9]{4}(?:\.[0-9]{3})?)")
# Groups (g0001), software (s0001), mitigations and data sources are tagged in the same name space.
_TACTIC = re.compile(r"attack\.([a-z][a-z_-]*[a-z])")


def techniques_of(tags: Iterable[str]) -> tuple[str, ...]:
    """The technique ids in upper case, each once, in the order of the tags."""
    found = (_TECHNIQUE.fullmatch(tag.strip().lower()) for tag in tags)
    return tuple(dict.fromkeys(match[1].upper() for match in found if match))


def tactics_of(tags: Iterable[str]) -> tuple[str, ...]:
    """The tactic short names as ATT&CK writes them (`credential-access`), each once, in the order of the tags."""
    found = (_TACTIC.fullmatch(tag.strip().lower()) for tag in tags)
    return tuple(dict.fromkeys(match[1].replace("_", "-") for match in found if match))
