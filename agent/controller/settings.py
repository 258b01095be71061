"""The controller's own settings: a YAML file of the host's owner, read once at the start."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from agent.host_policy import POLICY_PATH

SETTINGS_PATH: Final = Path("/etc/trustsoc-agent/controller.yml")
_T = TypeVar("_T")


class SettingsError(Exception):
    """The settings cannot be read; the message names the file, the place and what to do."""


@dataclass(frozen=True, slots=True)
class CollectorSettings:
    """The collector, whose configuration to begin with is `config`; it reads FOLDER/collector/current.yaml.

    Commands are lists, and no shell reads them. With `restart` and `alive` it is a service of the host; without them
    the controller runs it as a child, with the variables of `environment_file` (lines NAME=value).
    """

    config: str = ""
    binary: str = ""
    restart: tuple[str, ...] = ()
    alive: tuple[str, ...] = ()
    health_s: float = 30.0
    environment_file: str = ""


@dataclass(frozen=True, slots=True)
class ReloadSettings:
    """What is told of a change: files that hold a process id (which gets SIGHUP), and commands."""

    pid_files: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UpgradeSettings:
    """Where packages are unpacked (empty: nowhere), and the command inside a package that says whether it is sound.

    `restart` must not restart the controller itself, which would take its upgrade for interrupted: with
    `end_controller` it ends by itself once the new version has passed, for the host's supervisor to start that.
    """

    folder: str = ""
    check: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    alive: tuple[str, ...] = ()
    health_s: float = 30.0
    end_controller: bool = False


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """All of it. `folder` holds identity, memory and configurations; `forwarder_status` is a URL on loopback."""

    folder: str = "/var/lib/trustsoc-agent"
    policy: str = str(POLICY_PATH)
    forwarder_status: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    collector: CollectorSettings = field(default_factory=CollectorSettings)
    rules: ReloadSettings = field(default_factory=ReloadSettings)
    certificate: ReloadSettings = field(default_factory=ReloadSettings)
    upgrade: UpgradeSettings = field(default_factory=UpgradeSettings)


_SECTIONS: Final[dict[str, type[Any]]] = {
    "collector": CollectorSettings,
    "rules": ReloadSettings,
    "certificate": ReloadSettings,
    "upgrade": UpgradeSettings,
}


def read_settings(path: Path = SETTINGS_PATH) -> ControllerSettings:
    """The settings in the file. Raises SettingsError."""
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    top = _mapping(document if document is not None else {}, str(path))
    for name, kind in _SECTIONS.items():
        if name in top:
            place = f"{path}: {name}"
            top[name] = _made(kind, _mapping(top[name], place), place)
    return _made(ControllerSettings, top, str(path))


def _mapping(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise SettingsError(f"{place} must be a mapping")
    return dict(value)


def _made(kind: type[_T], value: dict[str, Any], place: str) -> _T:
    known = {known.name: known for known in fields(kind)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for name, item in value.items():
        if name not in known:
            raise SettingsError(f"{place}: {name!r} is not known here, only {', '.join(known)}")
        given[name] = _value(known[name].type, item, f"{place}: {name}")
    return kind(**given)


def _value(kind: Any, item: Any, place: str) -> Any:
    if kind == "tuple[str, ...]":
        if not isinstance(item, list) or not all(isinstance(part, str) and part for part in item):
            raise SettingsError(f"{place} must be a list of texts")
        return tuple(item)
    if kind == "float":
        if type(item) not in (int, float) or not 0 < item <= 3600:
            raise SettingsError(f"{place} must be seconds above 0, at most 3600")
        return float(item)
    if kind == "str" and not isinstance(item, str):
        raise SettingsError(f"{place} must be text")
    if kind == "bool" and type(item) is not bool:
        raise SettingsError(f"{place} must be true or false")
    if kind == "dict[str, str]":
        mapping = _mapping(item, place)
        if len(mapping) > 32 or not all(isinstance(part, str) and len(part) <= 200 for part in mapping.values()):
            raise SettingsError(f"{place} must map at most 32 names to texts of at most 200 characters")
        return mapping
    return item
