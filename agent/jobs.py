"""Jobs, results and job keys: what is signed, in which form, and when it counts. Pure: no clock, no files.

The server signs a job with Ed25519 over a prefix and the job's canonical form; the agent holds one or two pinned public
keys and runs nothing that they did not sign for it. The agent signs what came of it with a key of its own. The pinned
keys change only by a statement that one of them signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agent.canonical import NotCanonical, canonical, read_canonical

VERSION: Final = 1
JOB_CONTEXT: Final = b"TRUSTSOC-JOB-V1\n"
RESULT_CONTEXT: Final = b"TRUSTSOC-RESULT-V1\n"
KEYS_CONTEXT: Final = b"TRUSTSOC-JOB-KEYS-V1\n"

MOST_JOB_BYTES: Final = 65_536
MOST_RESULT_BYTES: Final = 524_288  # 64 Ki characters of output, each of them up to six bytes when escaped
MOST_OUTPUT: Final = 65_536
MOST_DETAIL: Final = 2_000
# An agent remembers a job until it expires; what may live for ever would have to be remembered for ever.
MOST_LIFE_MS: Final = 30 * 86_400_000
# Clocks of agents may be a little behind the server's.
CLOCK_LEEWAY_MS: Final = 300_000

JobType = Literal["PING", "RULES_RELOAD", "UPDATE_CONFIG", "CERT_ROTATE", "UPGRADE", "COLLECT_FILE", "BLOCK_IP"]
JOB_TYPES: Final[tuple[str, ...]] = get_args(JobType)
ResultState = Literal["running", "succeeded", "failed", "rejected"]
Refusal = Literal[
    "malformed", "bad_signature", "unknown_key", "foreign_tenant", "foreign_agent", "not_yet", "expired", "stale"
]

_AGENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_TYPE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_VISIBLE = re.compile(r"[!-~]{1,120}")
_KEY_ID = re.compile(r"[!-~]{1,64}")
_REASON = re.compile(r"(?:[a-z][a-z0-9_]{0,63})?")
_JOB_FIELDS: Final = frozenset(
    {"v", "id", "tenant", "agent", "type", "args", "dry_run", "idempotency_key", "key_id"}
    | {"issued_at", "not_before", "expires_at"}
)
_RESULT_FIELDS: Final = frozenset(
    {"v", "job", "lease", "attempt", "agent", "state", "reason", "detail", "output", "output_truncated", "data"}
    | {"started_at", "ended_at"}
)


class JobRefused(Exception):
    """A job, result or statement that must not be acted on. `reason` is the machine word of the result."""

    def __init__(self, reason: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.reason: Refusal = reason


@dataclass(frozen=True, slots=True)
class Job:
    """A command for one agent of one tenant. Times in milliseconds since the epoch; `args` by type.

    Valid from `not_before` until before `expires_at`, at most 30 days after `issued_at`.
    """

    id: UUID
    tenant: UUID
    agent: str
    type: str
    args: Mapping[str, Any]
    issued_at: int
    not_before: int
    expires_at: int
    idempotency_key: str
    key_id: str
    dry_run: bool = False

    def canonical(self) -> bytes:
        """The bytes that are signed, without the prefix. Raises JobRefused("malformed")."""
        fields = {
            "v": VERSION,
            "id": str(self.id),
            "tenant": str(self.tenant),
            "agent": self.agent,
            "type": self.type,
            "args": dict(self.args),
            "issued_at": self.issued_at,
            "not_before": self.not_before,
            "expires_at": self.expires_at,
            "idempotency_key": self.idempotency_key,
            "dry_run": self.dry_run,
            "key_id": self.key_id,
        }
        _check_job(fields)
        return _written(fields, MOST_JOB_BYTES)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one attempt at a job. Times in milliseconds since the epoch, `ended_at` 0 while it runs."""

    job: UUID
    lease: UUID
    attempt: int
    agent: str
    state: ResultState
    reason: str
    detail: str
    output: str
    output_truncated: bool
    started_at: int
    ended_at: int
    data: Mapping[str, Any]

    def canonical(self) -> bytes:
        """The bytes that are signed, without the prefix. Raises JobRefused("malformed")."""
        fields = {
            "v": VERSION,
            "job": str(self.job),
            "lease": str(self.lease),
            "attempt": self.attempt,
            "agent": self.agent,
            "state": self.state,
            "reason": self.reason,
            "detail": self.detail,
            "output": self.output,
            "output_truncated": self.output_truncated,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "data": dict(self.data),
        }
        _check_result(fields)
        return _written(fields, MOST_RESULT_BYTES)


@dataclass(frozen=True, slots=True)
class JobKeys:
    """The public keys to pin from now on: one or two, raw (32 bytes), by id. `serial` grows with each statement.

    `key_id` names the key that signs the statement: one that its readers hold already.
    """

    serial: int
    issued_at: int
    keys: Mapping[str, bytes]
    key_id: str

    def canonical(self) -> bytes:
        """The bytes that are signed, without the prefix. Raises JobRefused("malformed")."""
        keys = [{"key_id": name, "public_key": base64.b64encode(raw).decode()} for name, raw in self.keys.items()]
        fields = {
            "v": VERSION,
            "serial": self.serial,
            "issued_at": self.issued_at,
            "keys": keys,
            "key_id": self.key_id,
        }
        _check_keys(fields)
        return _written(fields, MOST_JOB_BYTES)


def sign_job(private_key: Ed25519PrivateKey, job: Job) -> tuple[str, str]:
    """The job's canonical text and its signature in base64. Raises JobRefused("malformed")."""
    return _signed(private_key, JOB_CONTEXT, job.canonical())


def read_job(data: bytes) -> Job:
    """The job that the bytes state, whoever wrote them. Raises JobRefused("malformed")."""
    fields = _read(data, MOST_JOB_BYTES)
    _check_job(fields)
    fields = {**fields, "id": UUID(fields["id"]), "tenant": UUID(fields["tenant"])}
    del fields["v"]
    return Job(**fields)


def verify_job(
    data: bytes,
    signature: str,
    keys: Mapping[str, Ed25519PublicKey],
    now_ms: int,
    tenant: UUID,
    agent: str,
) -> Job:
    """The job, once its form, signature, addressee and time are good. Raises JobRefused with the reason.

    Apart from its form, nothing that the job says counts before its signature does. `not_before` has five minutes'
    leeway, the end none.
    """
    job = read_job(data)
    _verify(keys, job.key_id, signature, JOB_CONTEXT + data)
    if job.tenant != tenant:
        raise JobRefused("foreign_tenant", f"the job is for the tenant {job.tenant}, not for {tenant}")
    if job.agent != agent:
        raise JobRefused("foreign_agent", f"the job is for the agent {job.agent!r}, not for {agent!r}")
    if now_ms >= job.expires_at:
        raise JobRefused("expired", f"the job expired {now_ms - job.expires_at} ms ago by this host's clock")
    begins = max(job.not_before, job.issued_at)
    if now_ms < begins - CLOCK_LEEWAY_MS:
        raise JobRefused("not_yet", f"the job begins in {begins - now_ms} ms by this host's clock")
    return job


def sign_result(private_key: Ed25519PrivateKey, result: Result) -> tuple[str, str]:
    """The result's canonical text and its signature in base64. Raises JobRefused("malformed")."""
    return _signed(private_key, RESULT_CONTEXT, result.canonical())


def read_result(data: bytes) -> Result:
    """The result that the bytes state, whoever wrote them. Raises JobRefused("malformed")."""
    fields = _read(data, MOST_RESULT_BYTES)
    _check_result(fields)
    fields = {**fields, "job": UUID(fields["job"]), "lease": UUID(fields["lease"])}
    del fields["v"]
    return Result(**fields)


def verify_result(data: bytes, signature: str, key: Ed25519PublicKey, agent: str) -> Result:
    """The result, once form, signature and sender are good. Raises JobRefused with the reason."""
    result = read_result(data)
    _verify({"": key}, "", signature, RESULT_CONTEXT + data)
    if result.agent != agent:
        raise JobRefused("foreign_agent", f"the result is of the agent {result.agent!r}, not of {agent!r}")
    return result


def sign_keys(private_key: Ed25519PrivateKey, keys: JobKeys) -> tuple[str, str]:
    """The statement's canonical text and its signature in base64. Raises JobRefused("malformed")."""
    return _signed(private_key, KEYS_CONTEXT, keys.canonical())


def verify_keys(data: bytes, signature: str, pinned: Mapping[str, Ed25519PublicKey], serial: int) -> JobKeys:
    """The statement, signed by a pinned key. Raises JobRefused; reason "stale" unless it is newer than `serial`."""
    fields = _read(data, MOST_JOB_BYTES)
    _check_keys(fields)
    _verify(pinned, fields["key_id"], signature, KEYS_CONTEXT + data)
    if fields["serial"] <= serial:
        raise JobRefused("stale", f"job keys of serial {fields['serial']} are not newer than {serial}")
    keys = {entry["key_id"]: base64.b64decode(entry["public_key"]) for entry in fields["keys"]}
    return JobKeys(fields["serial"], fields["issued_at"], keys, fields["key_id"])


def public_key(raw: bytes) -> Ed25519PublicKey:
    """The key of its 32 raw bytes. Raises ValueError for any other number of them."""
    return Ed25519PublicKey.from_public_bytes(raw)


def job_digest(data: bytes) -> str:
    """The hex SHA-256 of a job's canonical form: what tells one job from another of the same id."""
    return hashlib.sha256(data).hexdigest()


def _signed(private_key: Ed25519PrivateKey, context: bytes, data: bytes) -> tuple[str, str]:
    return data.decode(), base64.b64encode(private_key.sign(context + data)).decode()


def _verify(keys: Mapping[str, Ed25519PublicKey], key_id: str, signature: str, message: bytes) -> None:
    key = keys.get(key_id)
    if key is None:
        raise JobRefused("unknown_key", f"the key {key_id!r} is not one of the pinned keys {sorted(keys)}")
    try:
        key.verify(_base64(signature, 64), message)
    except (InvalidSignature, ValueError) as error:
        raise JobRefused("bad_signature", f"the signature is not one of the key {key_id!r}") from error


def _base64(text: object, length: int) -> bytes:
    """Exactly so many bytes in the one base64 text that they have. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError("base64 is text")
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if len(raw) != length or base64.b64encode(raw).decode() != text:
        raise ValueError(f"not the base64 of {length} bytes")
    return raw


def _written(fields: dict[str, Any], most: int) -> bytes:
    try:
        return canonical(fields, most_bytes=most)
    except NotCanonical as error:
        raise JobRefused("malformed", str(error)) from error


def _read(data: bytes, most: int) -> dict[str, Any]:
    try:
        fields = read_canonical(data, most_bytes=most)
    except NotCanonical as error:
        raise JobRefused("malformed", str(error)) from error
    if not isinstance(fields, dict):
        raise JobRefused("malformed", "not an object")
    return fields


def _check_job(fields: dict[str, Any]) -> None:
    _fields(fields, _JOB_FIELDS)
    _uuid(fields, "id", "tenant")
    _form(fields, agent=_AGENT, type=_TYPE, idempotency_key=_VISIBLE, key_id=_KEY_ID)
    _number(fields, "issued_at", "not_before", "expires_at")
    _kind(fields, dict, "args")
    _kind(fields, bool, "dry_run")
    if not fields["not_before"] < fields["expires_at"] or not fields["issued_at"] < fields["expires_at"]:
        raise JobRefused("malformed", "the job ends before it begins")
    if fields["expires_at"] - fields["issued_at"] > MOST_LIFE_MS:
        raise JobRefused("malformed", "the job lives longer than 30 days")


def _check_result(fields: dict[str, Any]) -> None:
    _fields(fields, _RESULT_FIELDS)
    _uuid(fields, "job", "lease")
    _form(fields, agent=_AGENT, reason=_REASON)
    _number(fields, "attempt", "started_at", "ended_at")
    _kind(fields, dict, "data")
    _kind(fields, bool, "output_truncated")
    for name, most in (("detail", MOST_DETAIL), ("output", MOST_OUTPUT)):
        if type(fields[name]) is not str or len(fields[name]) > most:
            raise JobRefused("malformed", f"{name} must be at most {most} characters")
    if type(fields["state"]) is not str or fields["state"] not in get_args(ResultState):
        raise JobRefused("malformed", "the state must be running, succeeded, failed or rejected")
    if (fields["state"] == "running") != (fields["ended_at"] == 0):
        raise JobRefused("malformed", "ended_at is 0 while the job runs, and only then")


def _check_keys(fields: dict[str, Any]) -> None:
    _fields(fields, frozenset({"v", "serial", "issued_at", "keys", "key_id"}))
    _number(fields, "serial", "issued_at")
    _form(fields, key_id=_KEY_ID)
    _kind(fields, list, "keys")
    for entry in fields["keys"]:
        if type(entry) is not dict or set(entry) != {"key_id", "public_key"}:
            raise JobRefused("malformed", "an entry of keys must have key_id and public_key")
        _form(entry, key_id=_KEY_ID)
        try:
            _base64(entry["public_key"], 32)
        except ValueError as error:
            raise JobRefused("malformed", "public_key must be 32 bytes in base64") from error
    ids = [entry["key_id"] for entry in fields["keys"]]
    if not 1 <= len(ids) <= 2 or len(set(ids)) != len(ids):
        raise JobRefused("malformed", "there must be one or two job keys of different ids")


def _fields(fields: dict[str, Any], wanted: frozenset[str]) -> None:
    if set(fields) != wanted:
        odd = sorted(set(fields) ^ wanted)
        raise JobRefused("malformed", f"fields missing or unknown: {', '.join(odd)[:200]}")
    if type(fields["v"]) is not int or fields["v"] != VERSION:
        raise JobRefused("malformed", f"this is not version {VERSION}")


def _uuid(fields: dict[str, Any], *names: str) -> None:
    for name in names:
        try:
            good = str(UUID(fields[name])) == fields[name]
        except (ValueError, TypeError, AttributeError):
            good = False
        if not good:
            raise JobRefused("malformed", f"{name} must be a UUID in lower case")


def _form(fields: dict[str, Any], **forms: re.Pattern[str]) -> None:
    for name, form in forms.items():
        if type(fields[name]) is not str or not form.fullmatch(fields[name]):
            raise JobRefused("malformed", f"{name} has the wrong form")


def _number(fields: dict[str, Any], *names: str) -> None:
    for name in names:
        if type(fields[name]) is not int or fields[name] < 0:
            raise JobRefused("malformed", f"{name} must be an integer, 0 or more")


def _kind(fields: dict[str, Any], kind: type, *names: str) -> None:
    for name in names:
        if type(fields[name]) is not kind:
            raise JobRefused("malformed", f"{name} must be {kind.__name__}")
