"""`trustsoc-agent doctor`: what is wrong with this installation, and what mends it. It changes nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

from agent.controller.collector_configs import last_adopted
from agent.controller.identity import AgentIdentity, IdentityError, IdentityFolder
from agent.controller.settings import ControllerSettings, SettingsError, read_settings
from agent.forwarder.config import Config, ConfigError, read_config, read_token
from agent.forwarder.identity import load_credentials
from agent.host_policy import HostPolicyError, read_host_policy
from agent.installation.account import Account, acting_as, owner_of, unreadable_programs
from agent.installation.overview import certificate_end, forwarder_status
from agent.installation.places import Places, is_running, read_record

if TYPE_CHECKING:
    import ssl

Severity = Literal["ok", "warning", "error"]
_RENEW: Final = timedelta(days=14)
_CONNECT_S: Final = 5.0
_REFUSAL_S: Final = 0.5
_SECRETS: Final = ("signing_key.json", "result.key", "masking.key", "token", "collector.env", "tls/current/key.pem")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `detail` says what is wrong and what to do, or what was found in order."""

    name: str
    severity: Severity
    detail: str


def examine(places: Places, *, offline: bool = False) -> list[Finding]:
    """Everything, in an order in which the first error is the one to mend first. `offline` leaves the network out.

    Root looks as the agent's account: it sees what the agent will see, and obeys nothing that the account put there.
    """
    account = owner_of(places.state) if places.state.exists() else None
    with acting_as(account):
        return _examined(places, account, offline)


def _examined(places: Places, account: Account | None, offline: bool) -> list[Finding]:
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("account", lambda: _account(places, account)),
        ("identity", lambda: _identity(places)),
        ("secrets", lambda: _secrets(places)),
        ("policy", lambda: _policy(places)),
        ("forwarder", lambda: _forwarder(places)),
        ("controller", lambda: _controller(places)),
        ("disk", lambda: _disk(places)),
        ("running", lambda: _running(places)),
    ]
    if not offline:
        checks.append(("server", lambda: _server(places)))
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings += check()
        except PermissionError as error:
            detail = f"{error.filename} cannot be read: run this as root or as the agent's account"
            findings.append(Finding(name, "error", detail))
        except ImportError as error:
            # As the account, which cannot read the programs.
            findings.append(Finding(name, "error", str(error)))
        except OSError as error:
            findings.append(Finding(name, "error", f"{error.filename or name}: {error.strerror or error}"))
    return findings


def _account(places: Places, account: Account | None) -> Iterator[Finding]:
    if account is None:
        return
    settings = (places.forwarder, places.controller, places.policy, places.collector, places.authority)
    closed = [str(path) for path in settings if path.exists() and not os.access(path, os.R_OK, effective_ids=True)]
    programs = unreadable_programs(account)
    if programs:
        yield Finding("account", "error", f"{account.name} cannot read the agent's programs: {programs}: chmod go+rX")
    if closed:
        yield Finding("account", "error", f"{account.name} cannot read {', '.join(closed)}: chmod 644")


def _identity(places: Places) -> Iterator[Finding]:
    folder = IdentityFolder(places.state)
    try:
        named = folder.read()
        folder.job_keys()
        folder.result_key()
        folder.signing_key()
    except IdentityError as error:
        yield Finding("identity", "error", f"{error} (`trustsoc-agent enroll`)")
        return
    yield Finding("identity", "ok", f"{named.agent} of {named.tenant_name}")
    until = certificate_end(folder.current / "certificate.pem")
    if until is None:
        yield Finding("certificate", "error", f"{folder.current}/certificate.pem cannot be read: enrol the agent again")
        return
    left = until - datetime.now(UTC)
    if left <= timedelta(0):
        yield Finding("certificate", "error", f"it ended at {until:%Y-%m-%d}: uninstall, and enrol the agent again")
    elif left < _RENEW:
        yield Finding(
            "certificate",
            "warning",
            f"it ends at {until:%Y-%m-%d}: `trustsoc job create CERT_ROTATE --agent {named.agent}`",
        )
    else:
        yield Finding("certificate", "ok", f"until {until:%Y-%m-%d}")


def _secrets(places: Places) -> Iterator[Finding]:
    open_ones = []
    for name in _SECRETS:
        path = places.state / name
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            open_ones.append(str(path))
    if open_ones:
        yield Finding(
            "secrets", "error", f"others can read {', '.join(open_ones)}: chmod 600, then rotate what they are"
        )
    else:
        yield Finding("secrets", "ok", "only the agent's account reads them")


def _policy(places: Places) -> Iterator[Finding]:
    try:
        policy = read_host_policy(places.policy)
    except HostPolicyError as error:
        yield Finding("policy", "error", f"no job is carried out: {error}")
        return
    yield Finding("policy", "ok", f"the server may ask for {', '.join(sorted(policy.jobs)) or 'nothing'}")


def _forwarder(places: Places) -> Iterator[Finding]:
    try:
        config = read_config(places.forwarder)
        if places.token.exists() or config.listen.token != places.token:
            read_token(config.listen.token)
        load_credentials(config.server)
        if config.masking is not None:
            from agent.forwarder.masking import MaskingStage

            MaskingStage(config.masking)
    except ConfigError as error:
        yield Finding("forwarder", "error", f"{places.forwarder}: {error}")
        return
    yield from _agreement(places, config)


def _agreement(places: Places, config: Config) -> Iterator[Finding]:
    """Whether the forwarder's settings speak of the agent that is enrolled."""
    named = _named(places)
    if named is not None and config.server.client_id not in (str(named.tenant), named.tenant_name):
        detail = (
            f"{places.forwarder} sends for {config.server.client_id}, enrolled for {named.tenant}: change client_id"
        )
        yield Finding("forwarder", "error", detail)
    elif named is not None and _origin(config.server.url) != _origin(named.ingest):
        detail = f"{places.forwarder} sends to {config.server.url}, the server named {named.ingest} at enrolment"
        yield Finding("forwarder", "warning", detail)
    elif places.masking_key.exists() and config.masking is None:
        detail = f"the tenant masks, this forwarder does not: add `masking: {{key: {places.masking_key}}}`"
        yield Finding("forwarder", "error", f"{places.forwarder}: {detail}")
    else:
        masks = "masked first" if config.masking is not None else "not masked"
        yield Finding("forwarder", "ok", f"takes OTLP on {config.listen.address}:{config.listen.port}; {masks}")


def _controller(places: Places) -> Iterator[Finding]:
    try:
        settings = read_settings(places.controller)
    except SettingsError as error:
        yield Finding("controller", "error", str(error))
        return
    if Path(settings.folder) != places.state or Path(settings.policy) != places.policy:
        detail = f"{places.controller} speaks of {settings.folder} and {settings.policy}, not of this installation"
        yield Finding("controller", "error", detail)
        return
    yield Finding("controller", "ok", f"asks {_control(places)} for jobs")
    yield from _collector(places, settings)


def _collector(places: Places, settings: ControllerSettings) -> Iterator[Finding]:
    from agent.collector import CollectorError, find_binary
    from agent.controller.service import run_command
    from agent.installation.places import COLLECTOR_KEY

    stated = settings.collector
    if not stated.config:
        yield Finding("collector", "ok", "none is run: senders of this host bring their own")
        return
    try:
        binary = Path(stated.binary) if stated.binary else find_binary()
    except CollectorError as error:
        yield Finding("collector", "error", str(error))
        return
    config = _next_config(places, Path(stated.config))
    if not config.exists():
        detail = f"there is no {config} yet: write one, or send UPDATE_CONFIG; nothing is tailed until then"
        yield Finding("collector", "warning", detail)
        return
    # The value is not looked at; the token itself has no business in the environment of a check.
    env = {"PATH": os.defpath, COLLECTOR_KEY: "validate"}
    trouble = run_command([str(binary), "validate", f"--config={config}"], env=env)
    if trouble:
        yield Finding("collector", "error", f"{config} is not valid: {trouble}")
    else:
        yield Finding("collector", "ok", f"{binary} takes {config}")


def _next_config(places: Places, stated: Path) -> Path:
    """What the collector reads after the next start: its owner's file where that was changed since it was taken."""
    folder = places.state / "collector"
    current = folder / "current.yaml"
    changed = stated.is_file() and hashlib.sha256(stated.read_bytes()).hexdigest() != last_adopted(folder)
    return stated if changed or not current.exists() else current


def _disk(places: Places) -> Iterator[Finding]:
    try:
        spool = read_config(places.forwarder).spool
    except ConfigError:
        return
    folder = next(place for place in (spool.folder, *spool.folder.parents) if place.exists())
    used = (
        sum(path.stat().st_size for path in spool.folder.glob("**/*") if path.is_file())
        if folder == spool.folder
        else 0
    )
    free, wanted = shutil.disk_usage(folder).free, max(0, spool.most_bytes - used) + spool.least_free_bytes
    if free < spool.least_free_bytes:
        yield Finding("disk", "error", f"{free} bytes are free at {folder}: the forwarder takes nothing; free some")
    elif free < wanted:
        yield Finding(
            "disk", "warning", f"{free} bytes are free at {folder}, a full spool needs {wanted}: lower most_bytes"
        )
    else:
        yield Finding("disk", "ok", f"{free >> 20} MiB are free at {folder}")


def _running(places: Places) -> Iterator[Finding]:
    if not is_running(places):
        yield Finding("running", "warning", "the agent does not run: `systemctl start trustsoc-agent`")
        return
    down = [str(program.get("name")) for program in read_record(places).get("programs", []) if not program.get("pid")]
    if down:
        yield Finding("running", "error", f"{', '.join(down)} ended and is started again: the log says why")
        return
    status = forwarder_status(places)
    if status is None:
        yield Finding("running", "error", "the forwarder does not answer on loopback: the log says why")
    elif status.get("state") != "ok":
        troubles = "; ".join(f"{what}: {one.get('detail')}" for what, one in (status.get("troubles") or {}).items())
        yield Finding("running", "warning", f"the forwarder is {status.get('state')}: {troubles}")
    else:
        yield Finding("running", "ok", "all programs run")


def _server(places: Places) -> Iterator[Finding]:
    """One TLS 1.3 connection to each of the server's addresses, with the agent's certificate; nothing is asked."""
    named = _named(places)
    if named is None:
        return
    for url in dict.fromkeys((named.control, named.ingest)):
        trouble = _unreachable(places, url)
        yield Finding("server", "error" if trouble else "ok", trouble or f"{url} speaks TLS 1.3 with this agent")


def _unreachable(places: Places, url: str) -> str:
    import socket
    import ssl

    parts = urlsplit(url)
    tls = places.state / "tls"
    try:
        context = ssl.create_default_context(cafile=str(tls / "authority.pem"))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(tls / "current" / "certificate.pem", tls / "current" / "key.pem")
        with (
            socket.create_connection((parts.hostname or "", parts.port or 443), _CONNECT_S) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname) as connection,
        ):
            return _refusal(connection, url)
    except ssl.SSLCertVerificationError as error:
        return f"{url} is not the server that this agent trusts, or a clock is wrong: {error.verify_message}"
    except (OSError, ValueError) as error:
        return f"{url} cannot be reached: {error}"


def _refusal(connection: ssl.SSLSocket, url: str) -> str:
    """In TLS 1.3 a server judges the certificate once the client has finished: a no comes at once, or never."""
    connection.settimeout(_REFUSAL_S)
    try:
        closed = connection.recv(1) == b""
    except TimeoutError:
        return ""
    except OSError as error:
        return f"{url} refuses this agent's certificate: {error}"
    return (
        f"{url} closes the connection: it refuses this agent's certificate, or something stands between"
        if closed
        else ""
    )


def _named(places: Places) -> AgentIdentity | None:
    try:
        return IdentityFolder(places.state).read()
    except IdentityError:
        return None


def _control(places: Places) -> str:
    named = _named(places)
    return named.control if named is not None else "nobody yet"


def _origin(url: str) -> tuple[str | None, int]:
    parts = urlsplit(url)
    return parts.hostname, parts.port or 443
