"""POST /_bulk and POST /{index}/_bulk: whoever can write to Elasticsearch can write to us.

Every document is a record whose body is the document as it came. The answer says for each item what became of it; a
request is stored as one batch or not at all, so trouble that will pass is an answer to the whole request (429, 503),
and a retry of the same body gets the same answer.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

from actors.metrics import Metrics
from serve.errors import WireAnswer, WireError
from serve.ingest.body import digest_of
from serve.ingest.bulk_request import BulkItem, MalformedBulk, parse_bulk
from serve.ingest.elasticsearch_answers import answered, bulk_answer, refused
from serve.ingest.intake import Intake, Sender, Submission, errors_on_the_wire
from serve.ingest.otlp_conversion import compressed, otlp_request
from serve.ingest.reception import Reception
from store.journal import Encoding

_DOOR: Final = "bulk"
_TYPES: Final = frozenset(
    {
        "",
        "application/json",
        "application/x-ndjson",
        "application/vnd.elasticsearch+json",
        "application/vnd.elasticsearch+x-ndjson",
    }
)
_UNACCEPTABLE: Final = "unacceptable"
_ON_THE_LOOP: Final = 1000  # items; answering more takes longer than other requests should wait
_INDEX_LIMIT: Final = 512
_WHAT_IS_HERE: Final = (
    "there is no such thing here: documents are taken at POST /_bulk and POST /{index}/_bulk, and nothing else of "
    "Elasticsearch exists. Turn templates, lifecycle policies, pipelines and sniffing off in the sender"
)


@dataclass(frozen=True, slots=True)
class ParsedBulk:
    """A request's items, and its storable documents as the payload of a batch. `digest` is of the body."""

    digest: bytes
    key: str
    items: tuple[BulkItem, ...]
    records: int
    payload: bytes
    encoding: Encoding


def parse_body(body: bytes, index: str) -> ParsedBulk:
    """Reads a decompressed body that was sent to an index ("" for none). Pure. Raises WireError 400 or 413."""
    try:
        request = parse_bulk(body, index)
    except MalformedBulk as error:
        raise WireError(400, str(error)) from error
    # The same body sent to another index is another batch: only the path tells them apart.
    key = "bulk:" + hashlib.sha256(index.encode() + b"\0" + body).hexdigest() if index else ""
    payload, encoding = compressed(otlp_request(request.records, _DOOR, {}))
    return ParsedBulk(digest_of(body), key, request.items, len(request.records), payload, encoding)


class BulkDoor:
    """The handlers. `version` is the release of Elasticsearch that senders shall take this for."""

    def __init__(self, reception: Reception, intake: Intake, metrics: Metrics, version: str) -> None:
        self._reception = reception
        self._intake = intake
        self._metrics = metrics
        self._version = version

    async def handle(
        self,
        headers: Mapping[str, str],
        stream: AsyncIterator[bytes],
        *,
        index: str = "",
        filter_path: str = "",
    ) -> WireAnswer:
        """Answers one bulk request. Never raises for bad input or for storage trouble."""
        started = time.monotonic()
        try:
            with errors_on_the_wire():
                answer = await self._accept(headers, stream, index, filter_path)
        except WireError as error:
            answer = self._refused(error)
        self._metrics.observe("ingest_seconds", time.monotonic() - started)
        return self._counted(answer)

    async def probe(self, headers: Mapping[str, str], path: str) -> WireAnswer:
        """Answers what senders ask before they send: who is there, is it licensed, is it healthy."""
        try:
            with errors_on_the_wire():
                await self._reception.admit(_as_bearer(headers))
        except WireError as error:
            return self._refused(error)
        match path:
            case "":
                return answered(_about(self._version))
            case "_license":
                # Beats and Logstash only go on when a licence is active; "oss" claims no feature that has one.
                return answered({"license": {"uid": "trust-soc", "type": "oss", "status": "active"}})
            case "_cluster/health":
                return answered({"cluster_name": "trust-soc", "status": "green", "timed_out": False})
            case _:
                return self.unknown()

    def unknown(self) -> WireAnswer:
        """404 in Elasticsearch's form, with what to do about it."""
        return self._counted(refused(WireError(404, _WHAT_IS_HERE)))

    async def _accept(
        self,
        headers: Mapping[str, str],
        stream: AsyncIterator[bytes],
        index: str,
        filter_path: str,
    ) -> WireAnswer:
        started = time.monotonic()
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type not in _TYPES:
            raise WireError(415, f"Content-Type {content_type[:60]!r} is not supported: send application/x-ndjson")
        if len(index) > _INDEX_LIMIT:
            raise WireError(400, f"the name of the index is longer than {_INDEX_LIMIT} characters")
        admitted = await self._reception.admit(_as_bearer(headers))
        async with admitted.place(self._intake) as ticket:
            parsed = await admitted.parsed(ticket, stream, lambda body: parse_body(body, index))
            if rejected := len(parsed.items) - parsed.records:
                self._metrics.count("ingest_door_rejected_records", rejected, door=_DOOR, reason=_UNACCEPTABLE)
                self._intake.refused_records(admitted.sender, _UNACCEPTABLE, rejected)
            seq, told = 0, dict[str, str]()
            if parsed.records:
                submission = _submission(admitted.sender, parsed, headers.get("x-idempotency-key", ""))
                acknowledged = await self._intake.store(submission, ticket)
                seq, told = acknowledged.seq, acknowledged.headers
        took_ms = round((time.monotonic() - started) * 1000)

        def answer() -> WireAnswer:
            return answered(bulk_answer(parsed.items, seq, took_ms, filter_path), told)

        return answer() if len(parsed.items) <= _ON_THE_LOOP else await asyncio.to_thread(answer)

    def _refused(self, error: WireError) -> WireAnswer:
        self._intake.refused(error)
        return refused(error)

    def _counted(self, answer: WireAnswer) -> WireAnswer:
        self._metrics.count("ingest_door_requests", door=_DOOR, status=str(answer.status))
        return answer


def _submission(sender: Sender, parsed: ParsedBulk, key: str) -> Submission:
    return Submission(
        sender,
        "otlp_protobuf",
        parsed.encoding,
        parsed.payload,
        parsed.records,
        parsed.digest,
        key or parsed.key,
        door=_DOOR,
    )


def _about(version: str) -> dict[str, object]:
    return {
        "name": "trust-soc",
        "cluster_name": "trust-soc",
        "cluster_uuid": "trust-soc",
        "version": {"number": version, "build_flavor": "default"},
        "tagline": "You Know, for Search",  # what clients from 7.14 on compare
    }


def _as_bearer(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers with the key in the one form that the authenticator knows.

    Senders put it into what their configuration offers: the password of any user (Basic), the key part or the whole of
    an API key (ApiKey, base64 of `id:key`), or a bearer token.
    """
    scheme, _, value = headers.get("authorization", "").partition(" ")
    value = value.strip()
    match scheme.lower():
        case "basic":
            key = _decoded(value).partition(":")[2]
        case "apikey":
            text = _decoded(value) or value
            key = text.rpartition(":")[2]
        case _:
            return headers
    return {**headers, "authorization": f"Bearer {key}"}


def _decoded(value: str) -> str:
    """The text that the value is base64 of; empty when it is not."""
    try:
        return base64.b64decode(value, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
