"""Answering with the lines of a replay or backtest as they come, a few at once.

Who closes the connection hears no more; the replay keeps its place among the few until it has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import orjson
import structlog
from fastapi.responses import StreamingResponse
from ray.exceptions import RayError

from actors.replay import Line
from serve.errors import WireError

logger = structlog.get_logger("replay")

AT_ONCE = 2


class ReplayStreams:
    """The replays that this replica follows."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._running: set[object] = set()
        self._ending: set[asyncio.Task[None]] = set()

    async def answer(self, start: Callable[[], AsyncGenerator[Line, None]]) -> StreamingResponse:
        """Starts one and answers with its lines as newline-delimited JSON.

        Raises WireError 429 when too many run, 503 when it cannot be started, and whatever its first line refuses.
        """
        if len(self._running) >= self._at_once:
            raise WireError(429, "too many replays are under way: wait for the end of one", retry_after_s=10)
        lines = start()
        mark = object()
        self._running.add(mark)
        try:
            # Only once it has begun is it known that it can be made, and the status is said before the first line.
            first = await anext(lines)
            if first["type"] == "error":
                raise WireError(first["status"], first["detail"], retry_after_s=2 if first["status"] == 503 else None)
        except BaseException as error:
            self._end(lines, mark)
            if isinstance(error, RayError):
                raise WireError(503, "the replay could not be started: retry later", retry_after_s=5) from error
            raise
        return StreamingResponse(
            _encoded(first, lines, lambda: self._end(lines, mark)), media_type="application/x-ndjson"
        )

    def _end(self, lines: AsyncGenerator[Line, None], mark: object) -> None:
        async def close() -> None:
            await lines.aclose()
            self._running.discard(mark)

        ending = asyncio.get_running_loop().create_task(close())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


async def _encoded(
    first: Line, lines: AsyncGenerator[Line, None], done: Callable[[], None]
) -> AsyncGenerator[bytes, None]:
    try:
        yield orjson.dumps(first) + b"\n"
        async for line in lines:
            yield orjson.dumps(line) + b"\n"
    except RayError as error:
        logger.warning("a replay ended early", error=str(error))
        yield (
            orjson.dumps({"type": "error", "status": 503, "detail": "the replay's process ended early: retry"}) + b"\n"
        )
    finally:
        done()
