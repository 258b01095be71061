"""The forwarder's configuration: one YAML file, every key checked, secrets in files of their own.

server:
  url: https://soc.example.org:8443
  authority: /etc/trustsoc-agent/authority.pem      # who signs the server's certificate
  certificate: /etc/trustsoc-agent/agent.pem        # this agent's, with its key
  key: /etc/trustsoc-agent/agent.key
  client_id: acme                                   # the tenant's name or id
  signing_key: /etc/trustsoc-agent/signing_key.json # {"key_id": …, "secret": …}
  api_key: /etc/trustsoc-agent/api_key              # optional: the certificate names the tenant
listen: {address: 127.0.0.1, port: 4319, token: /etc/trustsoc-agent/token}
spool: {folder: /var/lib/trustsoc-agent/spool, most_bytes: 1073741824}
masking: {key: /etc/trustsoc-agent/masking.key}     # optional; `policy` names one of the host's own
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints
from urllib.parse import urlsplit

T = TypeVar("T")

_LEAST_TOKEN = 16
_MOST_PORT = 65_535
_LONGEST_S = 1e8  # seconds; three years, and no infinity
_NO_TOKENS: Final = frozenset({"none", "null", "undefined", "changeme", "password", "token", "true", "false"})


class ConfigError(Exception):
    """The configuration, or a file that it names, cannot be used; the message says what to change."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where batches go and as whom. `url` is the address of the server's TLS port."""

    url: str
    authority: Path
    certificate: Path
    key: Path
    client_id: str
    signing_key: Path
    api_key: Path | None = None

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 443


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """Where senders of this host come. Any address but a loopback one needs `remote: true`."""

    token: Path
    address: str = "127.0.0.1"
    port: int = 4319
    remote: bool = False
    most_body_bytes: int = 16 << 20
    most_inflated_bytes: int = 32 << 20
    most_held_bytes: int = 32 << 20


@dataclass(frozen=True, slots=True)
class SpoolConfig:
    """Sizes in bytes, as in agent.spool.SpoolLimits."""

    folder: Path
    most_bytes: int = 1 << 30
    segment_bytes: int = 64 << 20
    least_free_bytes: int = 64 << 20
    aside_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True)
class ShipConfig:
    """`in_flight` requests at once, at most `bytes_per_second` (0: no limit); times in seconds."""

    in_flight: int = 4
    bytes_per_second: int = 0
    first_retry_s: float = 0.5
    longest_retry_s: float = 60.0
    refused_retry_s: float = 120.0
    answer_s: float = 60.0
    drain_s: float = 5.0
    statement_s: float = 60.0
    receipts: int = 1000


@dataclass(frozen=True, slots=True)
class MaskingConfig:
    """The tenant's masking key and a policy (agent/masking); without a policy the one that comes with the agent."""

    key: Path
    policy: Path | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file. Without `masking` bodies are kept as they come."""

    server: ServerConfig
    listen: ListenConfig
    spool: SpoolConfig
    ship: ShipConfig = field(default_factory=ShipConfig)
    masking: MaskingConfig | None = None


def read_config(path: Path) -> Config:
    """Raises ConfigError."""
    import yaml

    try:
        stated = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    return config_from(stated)


def config_from(stated: Any) -> Config:
    """The configuration from what YAML made of it. Raises ConfigError."""
    config = _section(Config, stated, "")
    _check(config)
    return config


def read_token(path: Path) -> str:
    """The local token. Raises ConfigError for one that is missing or could be guessed."""
    token = _secret(path)
    if not token:
        raise ConfigError(f"the local token in {path} is empty: write at least {_LEAST_TOKEN} random characters")
    if token.lower() in _NO_TOKENS:
        raise ConfigError(f"the local token in {path} is {token!r}, which somebody forgot to fill in")
    if len(token) < _LEAST_TOKEN:
        raise ConfigError(f"the local token in {path} has {len(token)} characters: write at least {_LEAST_TOKEN}")
    return token


def is_token(text: str) -> bool:
    """Whether this has the form of a local token."""
    return len(text) >= _LEAST_TOKEN and all("!" <= character <= "~" for character in text)


def read_api_key(path: Path | None) -> str:
    """The API key, or '' where none is named. Raises ConfigError."""
    if path is None:
        return ""
    key = _secret(path)
    if not key:
        raise ConfigError(f"the API key in {path} is empty: leave `api_key` away or write one")
    return key


def _secret(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not all("!" <= character <= "~" for character in text):
        raise ConfigError(f"{path} must hold one word of visible ASCII")
    return text


def _check(config: Config) -> None:
    place = urlsplit(config.server.url)
    try:
        port = place.port
    except ValueError as error:
        raise ConfigError(f"server.url: {error}") from error
    if place.scheme != "https" or not place.hostname or place.path not in {"", "/"} or place.query or port == 0:
        raise ConfigError("server.url must be https://HOST[:PORT], the server's TLS port")
    try:
        local = ipaddress.ip_address(config.listen.address).is_loopback
    except ValueError as error:
        raise ConfigError(f"listen.address: {error}") from error
    if not local and not config.listen.remote:
        detail = "is no loopback address: set listen.remote to true if other hosts shall send here, without TLS"
        raise ConfigError(f"listen.address: {config.listen.address} {detail}")
    if config.listen.port > _MOST_PORT:
        raise ConfigError(f"listen.port must be at most {_MOST_PORT}")
    if config.ship.answer_s <= 0:
        raise ConfigError("ship.answer_s must be more than 0")
    if not 1 <= config.ship.in_flight <= 64:
        raise ConfigError("ship.in_flight must be 1 to 64")
    if not 0 < config.ship.first_retry_s <= config.ship.longest_retry_s:
        raise ConfigError("ship.first_retry_s must be more than 0 and at most ship.longest_retry_s")
    if config.spool.most_bytes < 4 * config.listen.most_body_bytes:
        raise ConfigError("spool.most_bytes must be at least four times listen.most_body_bytes")


def _section(kind: type[T], stated: Any, place: str) -> T:
    """A dataclass from a mapping: unknown keys, missing ones and wrong types are named."""
    if not isinstance(stated, Mapping):
        raise ConfigError(f"{place or 'the file'} must be a mapping")
    hints = get_type_hints(kind)
    known = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]  # every section is a dataclass
    for name in stated:
        if name not in known:
            raise ConfigError(f"{place}{name} is not a setting; there are {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, entry in known.items():
        if name in stated:
            values[name] = _value(hints[name], stated[name], f"{place}{name}")
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise ConfigError(f"{place}{name} is missing")
    return kind(**values)


def _value(hint: Any, stated: Any, place: str) -> Any:
    if hint == MaskingConfig | None:
        return _section(MaskingConfig, stated, f"{place}.")
    if hint in (ServerConfig, ListenConfig, SpoolConfig, ShipConfig):
        return _section(hint, stated, f"{place}.")
    if hint is bool and isinstance(stated, bool):
        return stated
    if hint is str and isinstance(stated, str) and stated:
        return stated
    if hint in (Path, Path | None) and isinstance(stated, str) and stated:
        return Path(stated)
    number = isinstance(stated, int | float) and not isinstance(stated, bool) and stated >= 0
    if hint is int and number and isinstance(stated, int):
        return stated
    if hint is float and number and stated <= _LONGEST_S:
        return float(stated)
    raise ConfigError(f"{place}: {str(stated)[:60]!r} is not what belongs there")
