"""A copy of the process works on the state as it was, holds nothing of the original's, and always comes to an end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from actors.forked_copy import CopyFailed, fork_copy


def _newest_child() -> int:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return int(children[-1])


def _for_ever() -> bytes:
    while True:
        signal.pause()


def _alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


async def test_the_copy_sees_the_state_of_its_moment_while_the_original_goes_on() -> None:
    state = [b"then"] * 300_000
    copy = fork_copy(lambda: b"".join(state))
    state[:] = [b"now"]
    seconds, written = await copy.result(60)
    assert written == b"then" * 300_000
    assert seconds >= 0


async def test_what_is_wrong_in_the_copy_is_said_in_the_original() -> None:
    def failing() -> bytes:
        raise ValueError("a group without contributions")

    with pytest.raises(CopyFailed, match="ValueError: a group without contributions"):
        await fork_copy(failing).result(60)


async def test_a_copy_that_is_killed_gives_no_half_result() -> None:
    def killed() -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return b"never"

    with pytest.raises(CopyFailed, match="before it had a result"):
        await fork_copy(killed).result(60)


async def test_a_copy_that_takes_too_long_is_ended() -> None:
    copy = fork_copy(_for_ever)
    process = _newest_child()
    with pytest.raises(CopyFailed, match=r"more than 0\.05 s"):
        await copy.result(0.05)
    assert not _alive(process)


async def test_a_copy_ends_by_itself_though_nobody_waits_for_it() -> None:
    copy = fork_copy(_for_ever, longest_s=1)
    with pytest.raises(CopyFailed, match="before it had a result"):
        await copy.result(60)


async def test_an_unwanted_copy_is_ended() -> None:
    copy = fork_copy(_for_ever)
    process = _newest_child()
    copy.abandon()
    assert not _alive(process)


async def test_a_connection_ends_when_the_original_ends_it_though_the_copy_still_works() -> None:
    near, far = socket.socketpair()
    copy = fork_copy(_for_ever)
    near.close()
    far.settimeout(60)
    assert await asyncio.to_thread(far.recv, 1) == b""
    far.close()
    copy.abandon()


async def test_copies_leave_neither_processes_nor_pipes_behind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await fork_copy(lambda: b"x" * 200_000).result(60)
        fork_copy(lambda: b"x" * 200_000).abandon()
    await asyncio.sleep(0)  # transports close in the loop's next round
    assert len(os.listdir("/proc/self/fd")) == before
    with suppress(ChildProcessError):
        assert os.waitpid(-1, os.WNOHANG) == (0, 0)
