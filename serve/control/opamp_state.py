"""What an OpAMP instance says, and what is known of it from one message to the next. Pure values.

Agents leave out what has not changed ("Agent Status Compression" of the specification), so what was said is remembered,
and the sequence number tells whether a message between was missed. Of effective configurations only names, sizes and
digests are kept: their texts hold passwords.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from typing import Any, Final
from uuid import UUID

from serve.control.opamp_messages import (
    APPLIED,
    APPLYING,
    FAILED,
    REPORTS_EFFECTIVE_CONFIG,
    REPORTS_HEALTH,
    REPORTS_REMOTE_CONFIG,
    UNSET,
    read_agent_message,
    read_config_files,
    read_part,
)
from store.agents import HealthStatus
from store.values import text

MOST_ATTRIBUTES: Final = 64
MOST_FILES: Final = 100
MOST_COMPONENTS: Final = 1000
MOST_SICK: Final = 20
MOST_HASH_BYTES: Final = 64
_DIGEST_BYTES: Final = 32
_STATES: Final = {APPLIED: "applied", APPLYING: "applying", FAILED: "failed"}
_UNPRINTABLE = re.compile(r"[^ -~]")


@dataclass(frozen=True, slots=True)
class RemoteStatus:
    """What became of an offered configuration: the offer's hash in hex, a RemoteConfigStatuses value, an error."""

    hash: str = ""
    status: int = UNSET
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """One AgentToServer message, as far as it is kept; None is what it left out.

    `bare`: nothing but the instance uid, as the specification has it of a poll over plain HTTP.
    """

    instance_uid: bytes
    sequence: int
    flags: int
    capabilities: int
    description: dict[str, str] | None
    health: dict[str, Any] | None
    effective_config: dict[str, Any] | None
    remote: RemoteStatus | None
    disconnected: bool
    bare: bool


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of an instance. `complete`: nothing was missed that it said.

    `running` is the digest in hex of the policy that it runs by its own word, `settled` the hash in hex of the last
    offer that a job ended well with.
    """

    sequence: int | None = None
    capabilities: int = 0
    complete: bool = False
    description: dict[str, str] | None = None
    health: dict[str, Any] | None = None
    effective_config: dict[str, Any] | None = None
    remote: RemoteStatus | None = None
    running: str = ""
    settled: str = ""
    disconnected: bool = False

    @property
    def status(self) -> HealthStatus:
        """As agents of our own have it."""
        if self.health is None:
            return "unknown"
        if not self.health["healthy"]:
            return "failing"
        return "degraded" if self.health["unhealthy"] else "ok"

    @property
    def version(self) -> str:
        """The version that it describes itself with."""
        return _printable((self.description or {}).get("service.version", ""))[:64]

    @property
    def platform(self) -> str:
        """Operating system and architecture."""
        described = self.description or {}
        names = ("os.type", "os.version", "os.description", "host.arch")
        return _printable(" ".join(described[name] for name in names if described.get(name)))[:256]

    def stored(self, instance_uid: bytes) -> dict[str, Any]:
        """For the agent's row: the words that agents of our own use, and all of this under `opamp`."""
        health, remote = self.health or {}, self.remote or RemoteStatus()
        named = read_offer_hash(remote.hash)
        config = {
            "running": self.running,
            "attempted": named[0] if named else "",
            "state": _STATES.get(remote.status, ""),
            "detail": remote.detail,
        }
        detail = health.get("last_error") or health.get("status", "")
        kept = asdict(self) | {"instance_uid": str(UUID(bytes=instance_uid))}
        return {"started_at": health.get("started_at", 0), "detail": detail, "config": config, "opamp": kept}


def known_from(health: Mapping[str, Any]) -> Known:
    """What `stored` has stored; of anything else nothing is known."""
    names = {field.name for field in fields(Known)}
    kept = {name: value for name, value in (health.get("opamp") or {}).items() if name in names}
    if kept.get("remote") is not None:
        kept["remote"] = RemoteStatus(**kept["remote"])
    return Known(**kept)


def merged(known: Known, said: Said) -> Known:
    """What is known after a message."""
    capabilities = said.capabilities or known.capabilities
    sequence, complete = known.sequence, known.complete
    if not said.bare or sequence is None:
        # The same number again is the same message, sent once more because no answer came.
        missed = sequence is None or said.sequence not in {sequence, (sequence + 1) % 2**64}
        sequence = said.sequence
        complete = _is_full(said, capabilities) if missed else complete or said.description is not None
    remote = known.remote if said.remote is None else said.remote
    named = read_offer_hash(remote.hash) if remote else None
    applied = named is not None and remote is not None and remote.status == APPLIED
    return replace(
        known,
        sequence=sequence,
        capabilities=capabilities,
        complete=complete,
        description=known.description if said.description is None else said.description,
        health=known.health if said.health is None else said.health,
        effective_config=known.effective_config if said.effective_config is None else said.effective_config,
        remote=remote,
        running=named[0] if named and applied else known.running,
        disconnected=said.disconnected,
    )


def read_said(data: bytes) -> Said:
    """The message in these bytes. Raises UnreadableMessage."""
    message = read_agent_message(data)
    description = None
    described = read_part(message, "agent_description", "AgentDescription")
    if described is not None:
        identifying = _attributes(described.identifying_attributes)
        others = _attributes(described.non_identifying_attributes, MOST_ATTRIBUTES - len(identifying))
        description = others | identifying
    component = read_part(message, "health", "ComponentHealth")
    health = None if component is None else _health(component)
    remote = None
    status = read_part(message, "remote_config_status", "RemoteConfigStatus")
    if status is not None:
        name = status.last_remote_config_hash[:MOST_HASH_BYTES].hex()
        state = status.status if status.status in _STATES else UNSET
        remote = RemoteStatus(name, state, text(status.error_message, 2000))
    config = None
    if message.HasField("effective_config"):
        config = _effective(read_config_files(message.effective_config))
    disconnected = message.HasField("agent_disconnect")
    parts = (description, health, config, remote)
    numbers = message.sequence_num or message.flags or message.capabilities
    return Said(
        instance_uid=message.instance_uid,
        sequence=message.sequence_num,
        flags=message.flags,
        capabilities=message.capabilities,
        description=description,
        health=health,
        effective_config=config,
        remote=remote,
        disconnected=disconnected,
        bare=not numbers and not disconnected and all(part is None for part in parts),
    )


def offer_hash(digest: str, job: UUID) -> bytes:
    """The config_hash of a job's offer: the policy's digest and the job's id.

    A policy that failed once is another offer when another job brings it, so it is tried again; and what an instance
    says of a hash is said of that job and no other.
    """
    return bytes.fromhex(digest) + job.bytes


def read_offer_hash(name: str) -> tuple[str, UUID] | None:
    """Digest in hex and job id of an offer's hash in hex; None for a hash that is not ours."""
    raw = bytes.fromhex(name)
    if len(raw) != _DIGEST_BYTES + 16:
        return None
    return raw[:_DIGEST_BYTES].hex(), UUID(bytes=raw[_DIGEST_BYTES:])


def _is_full(said: Said, capabilities: int) -> bool:
    """Whether the message leaves nothing out that the instance says it reports."""
    promised = (
        (REPORTS_HEALTH, said.health),
        (REPORTS_EFFECTIVE_CONFIG, said.effective_config),
        (REPORTS_REMOTE_CONFIG, said.remote),
    )
    return said.description is not None and all(part is not None for bit, part in promised if capabilities & bit)


def _attributes(items: Iterable[Any], most: int = MOST_ATTRIBUTES) -> dict[str, str]:
    """Attributes of one value each as text; lists and maps are left out."""
    found: dict[str, str] = {}
    for item in items:
        kind = item.value.WhichOneof("value")
        if len(found) >= most:
            break
        if kind is not None and item.key:
            value = getattr(item.value, kind)
            found[item.key[:100]] = (str(value).lower() if isinstance(value, bool) else str(value))[:500]
    return found


def _health(health: Any) -> dict[str, Any]:
    sick: list[str] = []
    left, waiting = MOST_COMPONENTS, [("", health)]
    while waiting:
        path, component = waiting.pop()
        children = list(islice(component.component_health_map.items(), left))
        left -= len(children)
        for name, child in children:
            place = f"{path}/{name[:100]}" if path else name[:100]
            if not child.healthy and len(sick) < MOST_SICK:
                sick.append(place[:500])
            waiting.append((place[:500], child))
    return {
        "healthy": health.healthy,
        "status": health.status[:200],
        "last_error": health.last_error[:2000],
        "started_at": min(health.start_time_unix_nano // 1_000_000, 2**53),
        "unhealthy": sorted(sick),
    }


def _effective(config: Mapping[str, bytes]) -> dict[str, Any]:
    """Names, sizes and digests; one file's digest is the whole's, so that it can be compared with a policy's."""
    files: list[dict[str, Any]] = []
    total, whole = 0, hashlib.sha256()
    for name, body in sorted(config.items()):
        digest = hashlib.sha256(body).hexdigest()
        total += len(body)
        whole.update(f"{len(name.encode())} {name} {digest}\n".encode())
        if len(files) < MOST_FILES:
            files.append({"name": name[:200], "bytes": len(body), "digest": digest})
    single: str = files[0]["digest"] if len(config) == 1 else whole.hexdigest()
    return {"digest": single, "bytes": total, "files": files}


def _printable(value: str) -> str:
    return _UNPRINTABLE.sub("?", value)
