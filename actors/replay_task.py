"""A replay as a Ray task, in a process of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import ray

from actors.backtest import BacktestRequest, backtest_in_task
from actors.replay import Line, ReplayRequest, replay_in_task


def replay_lines(request: ReplayRequest) -> AsyncGenerator[Line, None]:
    """The lines of a replay; see _lines."""
    return _lines(replay_in_task, request)


def backtest_lines(request: BacktestRequest) -> AsyncGenerator[Line, None]:
    """The lines of a backtest; see _lines."""
    return _lines(backtest_in_task, request)


async def _lines(in_task: Callable[[Any], Iterator[Line]], request: object) -> AsyncGenerator[Line, None]:
    """What it says, to be read to the end. Raises RayError when the process dies.

    The task is never cancelled: Ray ends the process that asked for it when the task happens to be completed at that
    moment ("Tried to complete task that was not pending"). How long a replay may take is bounded by its batches,
    and by the clock (actors.replay.LONGEST_S).
    """
    task = ray.remote(in_task)
    lines = task.options(num_cpus=0, max_retries=0, num_returns="streaming").remote(request)
    async for reference in lines:
        line: Line = await reference
        yield line
