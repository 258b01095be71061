"""Enrolment: a one-time token becomes an identity. The private keys are made here and stay here."""

from __future__ import annotations

import base64
import json
import platform
import ssl
from datetime import UTC, datetime
from http.client import HTTPException, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.contract import SigningKey
from agent.controller.cert_rotate import check_certificate, new_key_and_request
from agent.controller.identity import AgentIdentity, IdentityFolder
from agent.jobs import public_key

_PATH: Final = "/agent/enroll"
_FIRST_PAIR: Final = "enrolled"
_MOST_ANSWER: Final = 262_144
_MOST_NAME: Final = 200


class EnrolmentError(Exception):
    """The agent was not enrolled; the message says why and what to do."""


def enrol(folder: IdentityFolder, *, control: str, token: str, agent: str, authority: Path, version: str) -> str:
    """Enrols this host under a name and keeps the identity in the folder; returns the tenant's name.

    `authority` is the PEM file of the authority that the server's certificate comes from; it must have reached this
    host on another way than through this call. Raises EnrolmentError.
    """
    if (folder.folder / "identity.json").exists():
        raise EnrolmentError(f"{folder.folder} holds an identity already: remove it to enrol anew")
    try:
        trusted = authority.read_bytes()
    except OSError as error:
        raise EnrolmentError(f"{authority} cannot be read: {error.strerror}") from error
    key, request = new_key_and_request(agent, "")
    result_key = Ed25519PrivateKey.generate()
    raw = result_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    body = {
        "token": token,
        "csr": request.decode(),
        "agent": agent,
        "result_key": base64.b64encode(raw).decode(),
        "version": version,
        "platform": platform.platform()[:200],
    }
    answer = _asked(control, body, authority)
    try:
        identity = _identity(answer, agent, control)
        chain = str(answer["certificate"]).encode()
        check_certificate(chain, request, identity.uri, datetime.now(UTC))
        job_keys = {
            str(one["key_id"]): base64.b64decode(one["public_key"], validate=True) for one in answer["job_keys"]
        }
        for pinned in job_keys.values():
            public_key(pinned)
        if not 1 <= len(job_keys) <= 2:
            raise ValueError("there must be one or two job keys")
        signing_key = SigningKey(str(answer["signing_key"]["key_id"]), str(answer["signing_key"]["secret"]))
        masking_key = _masking_key(answer.get("masking_key"))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise EnrolmentError(f"the server's answer cannot be used: {error}") from error
    folder.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder.folder / "tls").mkdir(mode=0o700, exist_ok=True)
    folder.add_pair(_FIRST_PAIR, key, chain)
    folder.use_pair(_FIRST_PAIR)
    # identity.json comes last: a folder that has it is whole.
    folder.write(
        identity,
        signing_key=signing_key,
        result_key=result_key,
        job_keys=job_keys,
        authority=trusted,
        masking_key=masking_key,
    )
    return identity.tenant_name


def usable_address(named: str, asked: str) -> str:
    """The address that the server named, or the one that it was asked at where that names its own host's loopback."""
    if _is_loopback(named) and not _is_loopback(asked):
        return asked.rstrip("/")
    return named


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _identity(answer: dict[str, Any], agent: str, control: str) -> AgentIdentity:
    if answer["agent"] != agent:
        raise ValueError(f"it names the agent {answer['agent']!r} instead of {agent!r}")
    name = answer["tenant_name"]
    if not isinstance(name, str) or not name.isprintable() or len(name) > _MOST_NAME:
        raise ValueError("the tenant's name is no text of one line")
    return AgentIdentity(
        tenant=UUID(answer["tenant"]),
        tenant_name=name,
        agent=agent,
        ingest=usable_address(str(answer["endpoints"]["ingest"]), control),
        control=usable_address(str(answer["endpoints"]["control"]), control),
        poll_s=max(1, min(300, int(answer["poll_s"]))),
    )


def _masking_key(text: object) -> str | None:
    """The key that a tenant which masks gives its agents; raises ValueError for what is none."""
    if text is None:
        return None
    # With it comes all that masks; most agents need none of that.
    from agent.masking.key import MaskingKey, MaskingKeyError

    try:
        return MaskingKey.parse(str(text)).text
    except MaskingKeyError as error:
        raise ValueError(str(error)) from error


def _asked(control: str, body: dict[str, Any], authority: Path) -> dict[str, Any]:
    url = urlsplit(control)
    if url.scheme != "https" or not url.hostname:
        raise EnrolmentError(f"the address must be https://HOST[:PORT], not {control}")
    try:
        context = ssl.create_default_context(cafile=str(authority))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        connection = HTTPSConnection(url.hostname, url.port or 443, context=context, timeout=60.0)
        try:
            connection.request(
                "POST", url.path.rstrip("/") + _PATH, json.dumps(body), {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            data = response.read(_MOST_ANSWER)
        finally:
            connection.close()
        answer = json.loads(data)
    except (OSError, HTTPException, ValueError) as error:
        raise EnrolmentError(f"{control} did not answer as a server of ours does: {error}") from error
    if response.status != 201 or not isinstance(answer, dict):
        detail = str(answer.get("detail", ""))[:500] if isinstance(answer, dict) else ""
        raise EnrolmentError(f"the server refused with {response.status}: {detail}")
    return answer
