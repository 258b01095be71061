"""Answering with the lines of a replay or backtest as they come, a few at once.

Who closes the connection, or reads nothing for a minute, hears no more. The replay is read to its end all the same,
and keeps its place among the few until then: Ray's task is bound to whoever asked for it, and must not be cancelled
(actors/replay_task.py).
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
PATIENCE_S = 60.0
_LINES_AHEAD = 64


class ReplayStreams:
    """The replays that this replica follows."""

    def __init__(self, at_once: int = AT_ONCE, patience_s: float = PATIENCE_S) -> None:
        self._at_once = at_once
        self._patience_s = patience_s
        self._running: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """How many have not ended, listened to or not."""
        return len(self._running)

    async def answer(self, start: Callable[[], AsyncGenerator[Line, None]]) -> StreamingResponse:
        """Starts one and answers with its lines as newline-delimited JSON.

        Raises WireError 429 when too many run, 503 when it cannot be started, and whatever its first line refuses.
        """
        if len(self._running) >= self._at_once:
            raise WireError(429, "too many replays are under way: wait for the end of one", retry_after_s=10)
        following = _Following(start(), self._patience_s)
        running = asyncio.get_running_loop().create_task(following.follow())
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        # Only once it has begun is it known that it can be made, and the status is said before the first line.
        try:
            first = await following.next()
        except BaseException as error:
            following.leave()
            if isinstance(error, RayError):
                raise WireError(503, "the replay could not be started: retry later", retry_after_s=5) from error
            raise
        if first is None or first["type"] == "error":
            following.leave()
            raise _refused(first)
        return StreamingResponse(_encoded(first, following), media_type="application/x-ndjson")


def _refused(first: Line | None) -> WireError:
    if first is None:
        return WireError(503, "the replay ended before it began: retry later", retry_after_s=5)
    return WireError(first["status"], first["detail"], retry_after_s=2 if first["status"] == 503 else None)


class _Following:
    """One replay between the task that reads it to its end and the answer that passes its lines on."""

    def __init__(self, lines: AsyncGenerator[Line, None], patience_s: float) -> None:
        self._lines = lines
        self._patience_s = patience_s
        self._heard: asyncio.Queue[Line | Exception | None] = asyncio.Queue(_LINES_AHEAD)
        self._left = False

    async def follow(self) -> None:
        """Reads all lines; ends with the replay."""
        try:
            async for line in self._lines:
                await self._tell(line)
        except Exception as error:  # the listener's to handle; without one it is only told
            if self._left:
                logger.warning("a replay that nobody waited for ended early", error=str(error))
            await self._tell(error)
        else:
            await self._tell(None)

    async def _tell(self, item: Line | Exception | None) -> None:
        """Hands it to the listener, who has left when nothing is taken for so long."""
        if self._left:
            return
        try:
            async with asyncio.timeout(self._patience_s):
                await self._heard.put(item)
        except TimeoutError:
            self._left = True

    async def next(self) -> Line | None:
        """The next line; None at the end. Raises what ended the replay, and TimeoutError for a listener too slow."""
        if self._left and self._heard.empty():
            raise TimeoutError
        item = await self._heard.get()
        if isinstance(item, Exception):
            raise item
        return item

    def leave(self) -> None:
        """Nobody listens any more."""
        self._left = True
        while not self._heard.empty():  # whoever waits for room goes on
            self._heard.get_nowait()


async def _encoded(first: Line, following: _Following) -> AsyncGenerator[bytes, None]:
    try:
        line: Line | None = first
        while line is not None:
            yield orjson.dumps(line) + b"\n"
            line = await following.next()
    except RayError as error:
        logger.warning("a replay ended early", error=str(error))
        yield _ended(503, "the replay's process ended early: retry")
    except TimeoutError:
        yield _ended(408, "the lines were not read for too long: ask again")
    finally:
        following.leave()


def _ended(status: int, detail: str) -> bytes:
    return orjson.dumps({"type": "error", "status": status, "detail": detail}) + b"\n"
