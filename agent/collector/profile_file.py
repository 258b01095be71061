"""A host's profile as a YAML file; every key is checked. Only `host_name` and one source are needed:

host_name: web-1
files:
  - {name: system, include: [/var/log/syslog, /var/log/auth.log]}
  - {name: app, include: [/srv/app/log/*.log], multiline_start: '^\\d{4}-'}
journal: [{units: [sshd.service]}]
syslog: [{name: devices, listen: "0.0.0.0:5514", protocol: rfc3164, transport: udp, remote: true}]
containers: [{}]
masks: [{name: card, pattern: '\\b\\d{16}\\b'}]   # besides the credentials that are always masked
secret_masks: true                              # false: not these either
queue: disk                                     # or memory, or none
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from agent.collector.profile import (
    SECRET_MASKS,
    ContainerSource,
    FileSource,
    HostProfile,
    JournalSource,
    Mask,
    Source,
    SyslogSource,
)

T = TypeVar("T")

_SOURCES: Final[dict[str, type[Source]]] = {
    "files": FileSource,
    "containers": ContainerSource,
    "journal": JournalSource,
    "syslog": SyslogSource,
}
_MOST_BYTES: Final = 262_144


class ProfileFileError(ValueError):
    """The file cannot be read as a profile; the message names the place and what belongs there."""


def read_profile(path: Path) -> HostProfile:
    """Raises ProfileFileError. Whether what is stated makes sense is for `profile_problems`."""
    import yaml

    try:
        data = path.read_bytes()
        if len(data) > _MOST_BYTES:
            raise ProfileFileError(f"{path} is larger than {_MOST_BYTES} bytes")
        stated = yaml.safe_load(data)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ProfileFileError(f"cannot read {path}: {error}") from error
    return profile_from(stated)


def profile_from(stated: Any) -> HostProfile:
    """A profile from what YAML made of it. Raises ProfileFileError."""
    if not isinstance(stated, Mapping):
        raise ProfileFileError("the file must be a mapping")
    own = dict(stated)
    sources = tuple(source for key, kind in _SOURCES.items() for source in _listed(kind, own.pop(key, None), key))
    masks = tuple(_listed(Mask, own.pop("masks", None), "masks"))
    secret = own.pop("secret_masks", True)
    if not isinstance(secret, bool):
        raise ProfileFileError("secret_masks must be true or false")
    for name in ("sources", "masks"):
        if name in own:
            raise ProfileFileError(f"{name} is not a setting here; sources are {', '.join(_SOURCES)}")
    whole = {"sources": sources, "masks": (SECRET_MASKS if secret else ()) + masks}
    return _section(HostProfile, own, "", whole)


def _listed(kind: type[T], stated: Any, place: str) -> list[T]:
    if stated is None:
        return []
    if not isinstance(stated, list):
        raise ProfileFileError(f"{place} must be a list")
    return [_section(kind, entry, f"{place}[{number}].", {}) for number, entry in enumerate(stated)]


def _section(kind: type[T], stated: Any, place: str, given: Mapping[str, Any]) -> T:
    """A dataclass from a mapping and values at hand: unknown keys, missing ones and wrong types are named."""
    if not isinstance(stated, Mapping):
        raise ProfileFileError(f"{place.rstrip('.') or 'the file'} must be a mapping")
    hints = get_type_hints(kind)
    known = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]  # every section is a dataclass
    for name in stated:
        if name not in known:
            others = ", ".join(entry for entry in known if entry not in given)
            raise ProfileFileError(f"{place}{name} is not a setting; there are {others}")
    values = dict(given)
    for name, entry in known.items():
        if name in stated:
            values[name] = _value(hints[name], stated[name], f"{place}{name}")
        elif name not in values and entry.default is MISSING and entry.default_factory is MISSING:
            raise ProfileFileError(f"{place}{name} is missing")
    return kind(**values)


def _value(hint: Any, stated: Any, place: str) -> Any:
    origin = get_origin(hint)
    if origin is tuple and isinstance(stated, list):
        return tuple(_value(get_args(hint)[0], entry, f"{place}[{number}]") for number, entry in enumerate(stated))
    if origin is Literal:
        if isinstance(stated, str) and stated in get_args(hint):
            return stated
        raise ProfileFileError(f"{place} must be one of {', '.join(map(repr, get_args(hint)))}")
    plain = origin is None and not isinstance(hint, UnionType)
    # To Python true is a number.
    if plain and isinstance(stated, hint) and (hint is bool or not isinstance(stated, bool)):
        return stated
    raise ProfileFileError(f"{place}: {str(stated)[:60]!r} is not what belongs there")
