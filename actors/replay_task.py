"""Starting a replay as a Ray task, and ending it when nobody listens any more."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import ray
from ray.exceptions import RayError

from actors.replay import Line, ReplayRequest, replay_in_task


async def replay_lines(request: ReplayRequest) -> AsyncGenerator[Line, None]:
    """The lines of a replay that runs in a process of its own; leaving the loop early ends that process.

    Raises RayError when the process dies.
    """
    task = ray.remote(replay_in_task)
    lines = task.options(num_cpus=0, max_retries=0, num_returns="streaming").remote(request)
    try:
        async for reference in lines:
            line: Line = await reference
            yield line
    finally:
        with contextlib.suppress(RayError, ValueError):
            ray.cancel(lines, force=True)
