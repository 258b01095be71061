"""A replay is read to its end whoever listens, and a place is free again only then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import orjson
import pytest
from fastapi.responses import StreamingResponse
from ray.exceptions import RayError

from actors.replay import Line
from serve.errors import WireError
from serve.replay_stream import ReplayStreams

START: Line = {"type": "start"}
RESULT: Line = {"type": "result"}


class Replay:
    """One that says its lines one by one, each when it is let."""

    def __init__(self, *lines: Line | Exception) -> None:
        self._lines = lines
        self._may = asyncio.Semaphore(0)
        self.said = 0
        self.was_closed_early = False

    def let(self, lines: int) -> None:
        for _ in range(lines):
            self._may.release()

    async def lines(self) -> AsyncGenerator[Line, None]:
        try:
            for line in self._lines:
                await self._may.acquire()
                self.said += 1
                if isinstance(line, Exception):
                    raise line
                yield line
        except (GeneratorExit, asyncio.CancelledError):
            self.was_closed_early = True
            raise


async def read(answer: StreamingResponse) -> list[Any]:
    return [orjson.loads(chunk) async for chunk in chunks(answer)]


def chunks(answer: StreamingResponse) -> AsyncIterator[bytes | str | memoryview]:
    return aiter(answer.body_iterator)


async def until_free(streams: ReplayStreams) -> None:
    async with asyncio.timeout(10):
        while streams.running:
            await asyncio.sleep(0.001)


async def test_all_lines_come_in_their_order() -> None:
    streams, replay = ReplayStreams(), Replay(START, *({"type": "progress", "seq": n} for n in range(200)), RESULT)
    replay.let(202)
    lines = await read(await streams.answer(replay.lines))
    assert [line["type"] for line in lines] == ["start", *["progress"] * 200, "result"]
    assert [line["seq"] for line in lines[1:-1]] == list(range(200))
    await until_free(streams)


async def test_one_too_many_is_told_to_come_back() -> None:
    streams, replay = ReplayStreams(at_once=1), Replay(START, RESULT)
    replay.let(1)
    answer = await streams.answer(replay.lines)
    with pytest.raises(WireError) as refused:
        await streams.answer(Replay(START).lines)
    assert (refused.value.status, refused.value.retry_after_s) == (429, 10)
    replay.let(1)
    assert await read(answer) == [START, RESULT]
    await until_free(streams)


async def test_a_listener_that_leaves_early_lets_the_replay_end_and_keeps_its_place() -> None:
    streams, replay = ReplayStreams(at_once=1), Replay(START, *({"type": "progress"} for _ in range(500)), RESULT)
    replay.let(1)
    answer = chunks(await streams.answer(replay.lines))
    assert orjson.loads(bytes(await anext(answer))) == START  # type: ignore[arg-type]  # an iterator of bytes
    await answer.aclose()  # type: ignore[attr-defined]  # it is a generator
    await asyncio.sleep(0)
    assert streams.running == 1
    replay.let(501)
    await until_free(streams)
    assert (replay.said, replay.was_closed_early) == (502, False)


async def test_a_request_that_is_cancelled_before_the_first_line_does_the_same() -> None:
    streams, replay = ReplayStreams(at_once=1), Replay(START, RESULT)
    asking = asyncio.create_task(streams.answer(replay.lines))
    await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert streams.running == 1
    replay.let(2)
    await until_free(streams)
    assert (replay.said, replay.was_closed_early) == (2, False)


async def test_an_answer_that_is_never_read_gives_its_place_back_in_the_end() -> None:
    streams = ReplayStreams(at_once=1, patience_s=0.05)
    replay = Replay(START, *({"type": "progress"} for _ in range(500)), RESULT)
    replay.let(502)
    answer = await streams.answer(replay.lines)
    await until_free(streams)
    assert (replay.said, replay.was_closed_early) == (502, False)
    late = await read(answer)
    assert late[0] == START
    assert (late[-1]["type"], late[-1]["status"]) == ("error", 408)


async def test_a_refusal_comes_as_a_status() -> None:
    streams, replay = ReplayStreams(), Replay({"type": "error", "status": 422, "detail": "no such batches"})
    replay.let(1)
    with pytest.raises(WireError, match="no such batches") as refused:
        await streams.answer(replay.lines)
    assert refused.value.status == 422
    await until_free(streams)


@pytest.mark.parametrize("before", [0, 1])
async def test_a_process_that_dies_is_told_as_a_status_or_as_the_last_line(before: int) -> None:
    streams, replay = ReplayStreams(), Replay(*[START][:before], RayError("the worker died"))
    replay.let(2)
    if before:
        *_, last = await read(await streams.answer(replay.lines))
        assert (last["type"], last["status"]) == ("error", 503)
    else:
        with pytest.raises(WireError) as refused:
            await streams.answer(replay.lines)
        assert refused.value.status == 503
    await until_free(streams)
