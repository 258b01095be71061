"""A replay as a Ray task, whose lines are read to the end even when nobody listens any more."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import ray
from ray.exceptions import RayError

from actors.backtest import BacktestRequest, backtest_in_task
from actors.replay import Line, ReplayRequest, replay_in_task


def replay_lines(request: ReplayRequest) -> AsyncGenerator[Line, None]:
    """The lines of a replay; see _lines."""
    return _lines(replay_in_task, request)


def backtest_lines(request: BacktestRequest) -> AsyncGenerator[Line, None]:
    """The lines of a backtest; see _lines."""
    return _lines(backtest_in_task, request)


async def _lines(in_task: Callable[[Any], Iterator[Line]], request: object) -> AsyncGenerator[Line, None]:
    """What runs in a process of its own says; closing it early waits, without a word, for the end of that work.

    The task is never cancelled: Ray ends the process that asks for it when the task happens to be completed at that
    moment ("Tried to complete task that was not pending"). How long a replay may take is bounded by its batches.
    Raises RayError when the process dies.
    """
    task = ray.remote(in_task)
    lines = task.options(num_cpus=0, max_retries=0, num_returns="streaming").remote(request)
    try:
        async for reference in lines:
            line: Line = await reference
            yield line
    finally:
        with contextlib.suppress(RayError):
            async for _ in lines:
                pass
