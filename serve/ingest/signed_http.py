"""POST /ingest/logs: OTLP/HTTP as at /v1/logs, with the signed envelope required (agent/contract.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from agent.contract import SERVER_TIME_HEADER
from serve.errors import WireAnswer
from serve.ingest.otlp_http import OtlpHttpDoor


class SignedHttpDoor:
    """The OTLP door behind an EnvelopeCheck. Every answer states the server's time, in the form that senders sign."""

    def __init__(self, otlp: OtlpHttpDoor, clock: Callable[[], datetime]) -> None:
        self._otlp = otlp
        self._clock = clock

    async def handle(self, headers: Mapping[str, str], stream: AsyncIterator[bytes]) -> WireAnswer:
        """Answers one export request. Never raises for bad input or for storage trouble."""
        answer = await self._otlp.handle(headers, stream)
        stated = (self._clock() - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        return replace(answer, headers=answer.headers | {SERVER_TIME_HEADER: str(stated)})
