"""`trustsoc-agent status`: who this agent is, what runs, and what the forwarder and the collector say of themselves."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.installation.account import acting_as, owner_of
from agent.installation.places import Places, is_running, read_record

if TYPE_CHECKING:
    from agent.forwarder.config import ListenConfig

_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # nobody listens there by this
_ANSWER_S: Final = 2.0
_MOST_STATUS: Final = 1_048_576


def overview(places: Places) -> dict[str, Any]:
    """All of it, as JSON takes it. `state` is `ok`, `degraded`, `failing`, `stopped` or `not_enrolled`.

    Root looks as the agent's account. Raises OSError when the state folder, which is that account's, cannot be read.
    """
    with acting_as(owner_of(places.state) if places.state.exists() else None):
        return _overview(places)


def _overview(places: Places) -> dict[str, Any]:
    identity = _object(places.state / "identity.json")
    running = is_running(places)
    record = read_record(places) if running else {}
    forwarder = forwarder_status(places) if running else None
    found = {
        "agent": {name: identity.get(name) for name in ("agent", "tenant", "tenant_name", "ingest", "control")},
        "certificate_expires_at": _expiry(places.state / "tls" / "current" / "certificate.pem"),
        "running": running,
        "programs": record.get("programs", []),
        "collector": _object(places.state / "collector" / "state.json"),
        "forwarder": forwarder,
    }
    return {"state": _state(identity, running, found["programs"], forwarder)} | found


def forwarder_status(places: Places) -> dict[str, Any] | None:
    """What the forwarder's status page says, None while it does not answer."""
    from http.client import HTTPConnection, HTTPException

    from agent.forwarder.config import ConfigError, read_config

    try:
        listen = read_config(places.forwarder).listen
        connection = HTTPConnection(*local_address(listen), timeout=_ANSWER_S)
        try:
            connection.request("GET", "/status")
            answer = connection.getresponse()
            value = json.loads(answer.read(_MOST_STATUS))
        finally:
            connection.close()
    except (ConfigError, OSError, ValueError, HTTPException):
        return None
    return value if answer.status == 200 and isinstance(value, dict) else None


def local_address(listen: ListenConfig) -> tuple[str, int]:
    """Host and port by which this host reaches its forwarder."""
    return _EVERYWHERE.get(listen.address, listen.address), listen.port


def in_words(found: dict[str, Any]) -> str:
    """The overview for a person to read."""
    agent = found["agent"]
    lines = [f"state        {found['state']}"]
    if agent["agent"]:
        lines.append(f"agent        {agent['agent']} of {agent['tenant_name']}, server {agent['control']}")
        lines.append(f"certificate  until {found['certificate_expires_at'] or 'unknown: it cannot be read'}")
    for program in found["programs"]:
        state = f"process {program['pid']}" if program["pid"] else f"down, last ended with {program['last_status']}"
        lines.append(f"{program['name']:<12} {state}, starts: {program['starts']}")
    forwarder = found["forwarder"]
    if forwarder is not None:
        lines.append(
            f"records      {forwarder.get('accepted')} accepted, {forwarder.get('stored')} stored, "
            f"{forwarder.get('duplicate')} known before, {forwarder.get('rejected')} rejected, "
            f"{forwarder.get('in_flight')} waiting"
        )
        lines.append(f"spool        {forwarder.get('spool_bytes')} of {forwarder.get('spool_limit_bytes')} bytes")
        if forwarder.get("poison"):
            lines.append(f"refused      {forwarder['poison']} batches lie in poison/: trustsoc-agent poison list")
        for what, trouble in (forwarder.get("troubles") or {}).items():
            lines.append(f"trouble      {what}: {trouble.get('detail')}")
    if found["collector"]:
        collector = found["collector"]
        lines.append(
            f"collector    {collector.get('running', '')[:12]} runs, the last attempt was {collector.get('state')}"
        )
    return "\n".join(lines)


def _state(identity: dict[str, Any], running: bool, programs: list[Any], forwarder: dict[str, Any] | None) -> str:
    if not identity:
        return "not_enrolled"
    if not running:
        return "stopped"
    if forwarder is None or any(not program.get("pid") for program in programs):
        return "failing"
    return str(forwarder.get("state"))


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _expiry(path: Path) -> str:
    """When the certificate ends, empty when that cannot be read."""
    expires = certificate_end(path)
    return expires.isoformat(timespec="seconds") if expires else ""


def certificate_end(path: Path) -> datetime | None:
    """When the certificate in the PEM file ends, None when it cannot be read."""
    if not path.exists():
        return None
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(path.read_bytes())[0].not_valid_after_utc.astimezone(UTC)
    except (OSError, ValueError, IndexError):
        return None
